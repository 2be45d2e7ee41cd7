"""How much of the held-out rewards fitted values explain, with intervals over prompts.

Tilting compares tokens after one and the same prefix, so what counts is what values tell apart among replies to one
prompt; that a prompt's replies are all alike better than another's helps nobody. Imports torch, never vllm.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from training.errors import MeasurementError
from training.fit.dataset import Example, load_training_data
from training.fit.held_out import predict
from training.fit.variant import VariantRun
from training.runs.run import VALUES_FOLDER
from training.statistics.bootstrap import Estimate, draws, estimate_of
from valuemodels.models.checkpoint import load_value_model

Sums = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Squares:
    """Sums of squares over a prompt's positions, each about the prompt's own means.

    Attributes:
        errors: [prompts, objectives] of target less value; totals: [prompts, objectives] of the targets.
    """

    errors: Sums
    totals: Sums

    def explained(self, chosen: NDArray[np.int64]) -> Sums:
        """[..., objectives + 1] the share of the targets' variance within prompts that the values explain.

        Args:
            chosen: [..., prompts] indices of prompts. The last column is the mean over the objectives. Where replies to
                none of them differ, nothing is explained.
        """
        errors, totals = (sums[chosen].sum(axis=-2) for sums in (self.errors, self.totals))
        shares = 1 - np.divide(errors, totals, out=np.ones_like(totals), where=totals > 0)
        return np.concatenate([shares, shares.mean(axis=-1, keepdims=True)], axis=-1)


def held_out_squares(run: VariantRun) -> Squares:
    """Of the replies to the test prompts, by the values that the run has fitted.

    Raises:
        MeasurementError: there are too few of them to tell anything.
    """
    data = load_training_data(run)
    model = load_value_model(run.finished("fit") / VALUES_FOLDER, run.base_folder, dtype=torch.float32, device="cpu")
    rows = []
    for replies in _by_prompt(data.examples["test"]):
        found = predict(model, replies, run.recipe.fit.batch_tokens)
        targets = _centred(found.targets)
        rows.append((np.square(targets - _centred(found.values)).sum(0), np.square(targets).sum(0)))
    if len(rows) < 2:
        raise MeasurementError(f"test prompts: got {len(rows)}, allowed is 2 or more: raise --limit or split.test")
    errors, totals = (np.stack(column) for column in zip(*rows, strict=True))
    return Squares(errors, totals)


def estimates(squares: Squares, other: Squares | None = None) -> list[Estimate]:
    """For each objective, and for their mean: the share explained, or by how much it is more than another fit's."""
    prompts = len(squares.errors)
    drawn = draws(prompts)
    both = [
        squares.explained(chosen) - (0.0 if other is None else other.explained(chosen))
        for chosen in (np.arange(prompts), drawn)
    ]
    return [estimate_of(value, resampled) for value, resampled in zip(both[0], both[1].T, strict=True)]


def _by_prompt(examples: Sequence[Example]) -> Iterator[list[Example]]:
    for _, replies in groupby(examples, key=lambda example: example.token_ids[: example.prompt_length]):
        yield list(replies)


def _centred(figures: torch.Tensor) -> Sums:
    """[positions, objectives], less their means."""
    centred: Sums = (figures.double() - figures.double().mean(0)).numpy()
    return centred
