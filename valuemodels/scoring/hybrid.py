"""Hybrid scoring: fast values pick the few candidates that matter, and exact scoring tells those apart.

What the picked are worth on average, against all the rest, stays what fast scoring makes of it; what each of them is
worth is exact scoring's say. So no candidate is lost, and with all of them picked this is exact scoring.
"""

from dataclasses import replace

import torch
from torch import Tensor

from valuemodels.scoring.exact import ExactScorer
from valuemodels.scoring.fast import FastScorer
from valuemodels.scoring.scorer import Scorer, ScoringBatch
from valuemodels.tilting import Candidates, weighted_values

LEAST_SHARE = 0.01
"""Of the likeliest candidate's probability: what is less likely, before the tilt and after it, is not picked."""


class HybridScorer:
    """Values in exact scoring's units.

    Those of candidates that were not picked are fast scoring's, converted, and moved so that the picked have the same
    mean by either: no level can be told from them.
    """

    gives_levels = False

    def __init__(self, fast: FastScorer, exact: ExactScorer, most: int) -> None:
        """Args: `fast` and `exact`: of the same checkpoint. `most`: how many candidates are picked at most."""
        self.fast, self.exact = fast, exact
        self.checkpoint_id = exact.checkpoint_id
        self.objectives = exact.objectives
        self.scales = exact.scales
        self._most = most
        # A weight then moves a candidate by what it does under fast scoring.
        ratios = [mine / theirs for mine, theirs in zip(fast.scales, exact.scales, strict=True)]
        self._ratios = torch.tensor(ratios, device=exact.cache.shape.device)

    @torch.inference_mode()
    def score(self, batch: ScoringBatch) -> Tensor:
        """See `Scorer.score`.

        Raises:
            RuntimeError: nobody has captured the base model's hidden states.
        """
        values = self.fast.score(batch) * self._ratios
        places, picked = pick(batch, values, self._most)
        logits = batch.candidates.logits.gather(1, places).masked_fill(~picked, float("-inf"))
        few = Candidates(batch.candidates.token_ids.gather(1, places), logits)
        return refine(values, self.exact.score(replace(batch, candidates=few)), places, few, batch.temperature)


def pick(batch: ScoringBatch, values: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The candidates that are likely under the base or under its tilt by these values: by the mean of both.

    Args:
        values: [rows, k, objectives]; a row whose values are no numbers picks none.

    Returns:
        places [rows, at most `most`] among the candidates, and which of them are picked [same], those coming first.
    """
    candidates = batch.candidates
    base = candidates.logits / batch.temperature[:, None]
    tilted = base + torch.where(candidates.valid, weighted_values(values, batch.coefficients), 0.0)
    chances = (torch.softmax(base, dim=-1) + torch.softmax(tilted, dim=-1)) / 2
    top, places = torch.topk(chances, min(most, chances.shape[-1]), dim=-1)
    return places, (top >= LEAST_SHARE * top[:, :1]) & candidates.valid.gather(1, places)


def refine(values: Tensor, exact: Tensor, places: Tensor, few: Candidates, temperature: Tensor) -> Tensor:
    """Put exact values in place of those of the picked candidates, and move the others along with their mean.

    Args:
        values: [rows, k, objectives] of all candidates.
        exact: [rows, picked, objectives]; ignored where a row has picked a single one, which nobody has read.
        places: [rows, picked] among all candidates.
        few: the picked candidates; of their logits those that are -inf are none.
        temperature: [rows] > 0.
    """
    was_read = few.valid & (few.valid.sum(1, keepdim=True) > 1)
    chances = torch.softmax(few.logits / temperature[:, None], dim=-1).nan_to_num(0.0)
    at = places[..., None].expand_as(exact)
    own = values.gather(1, at)
    gap = torch.where(was_read[..., None], chances[..., None] * (exact - own), 0.0).sum(1, keepdim=True)
    return (values + gap).scatter(1, at, torch.where(was_read[..., None], exact, own + gap))


def reader_of(scorer: Scorer) -> ExactScorer | None:
    """What keeps a cache of read sequences behind a scorer; None where nothing is read."""
    if isinstance(scorer, HybridScorer):
        return scorer.exact
    return scorer if isinstance(scorer, ExactScorer) else None
