"""What a probe says of positions, and how good that is on prompts that it was not fitted to.

Runs in the fit's process. Imports torch, never vllm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.fast.labels import Labels, centred
from training.fast.positions import NOT_CHOSEN, PositionData
from training.fast.run import FastRun
from training.fast.targets import expected_gain, explained_advantage, scale_at_kl
from valuemodels.models.probe import Probe
from valuemodels.tilting import advantages_of

_BATCH = 2048
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-2, 1e3
"""A probe that learned nothing must not send the next round, or the calibration, astray."""


@dataclass(frozen=True, slots=True)
class Held:
    """Validation prompts' positions.

    Attributes:
        advantages: [positions, objectives] of the sampled tokens.
        labels: of these positions; None without a teacher.
    """

    data: PositionData
    advantages: Tensor
    labels: Labels | None

    @classmethod
    def of(cls, data: PositionData, advantages: Tensor, labels: Labels | None) -> "Held":
        """The validation part of all positions."""
        is_held = torch.tensor([split == "validation" for split in data.splits])[data.reply]
        index = is_held.nonzero().flatten()
        found = None
        if labels is not None:
            kept = labels.select(is_held[labels.position].nonzero().flatten())
            number = torch.zeros(len(data), dtype=torch.long)
            number[index] = torch.arange(len(index))
            found = Labels(number[kept.position], kept.candidates, kept.weights, kept.values)
        return cls(data.select(index), advantages[index], found)


def probe_values(probe: Probe, embeddings: Tensor, batch: PositionData) -> Tensor:
    """The probe's values of all candidates: [positions, k, objectives], 0 where there is none; differentiable.

    Args:
        embeddings: [vocabulary, embedding], all of `unit_rms`.
    """
    present = (batch.base_logprobs > float("-inf"))[..., None]
    return _values(probe, embeddings, batch.hidden, batch.token_ids.long()).where(present, 0.0)


def labelled_advantages(probe: Probe, embeddings: Tensor, batch: PositionData, labels: Labels) -> Tensor:
    """The probe's advantages of labelled candidates: [labels, m, objectives], centred as `Labels.advantages` are.

    Args:
        batch: the labels' positions, in their order.
    """
    token_ids = batch.token_ids.long().gather(1, labels.candidates)
    return centred(_values(probe, embeddings, batch.hidden, token_ids), labels.weights)


@torch.no_grad()
def predict(probe: Probe, embeddings: Tensor, data: PositionData) -> Tensor:
    """The probe's advantages under the base of all positions' candidates, in their order."""
    parts = []
    for index in torch.split(torch.arange(len(data)), _BATCH):
        batch = data.select(index)
        present = (batch.base_logprobs > float("-inf"))[..., None]
        values = probe_values(probe, embeddings, batch)
        parts.append(advantages_of(values, batch.base_logprobs).where(present, 0.0))
    return torch.cat(parts)


def probe_metrics(
    probe: Probe, embeddings: Tensor, held: Held, objectives: Sequence[str], run: FastRun
) -> dict[str, dict[str, float]]:
    """Figures for each objective.

    Returns:
        objective -> {"validation_gain": expected first-order gain, in standard deviations of the base's reward, of
        tilts that cost `calibrate.target_kl` nats a reply, "validation_explained_variance" of the exact values'
        advantages, where there are some}
    """
    data, predicted = held.data, predict(probe, embeddings, held.data)
    usable = (data.chosen != NOT_CHOSEN).nonzero().flatten()
    gains = expected_gain(
        predicted[usable],
        data.base_logprobs[usable].exp(),
        data.chosen[usable],
        held.advantages[usable],
        run.recipe.calibrate.target_kl,
        run.recipe.rollout.max_tokens,
    ).tolist()
    metrics = {name: {"validation_gain": round(gain, 4)} for name, gain in zip(objectives, gains, strict=True)}
    if held.labels is not None and len(held.labels):
        with torch.no_grad():
            found = labelled_advantages(probe, embeddings, data.select(held.labels.position), held.labels)
        explained = explained_advantage(found, held.labels.advantages, held.labels.weights).tolist()
        for name, share in zip(objectives, explained, strict=True):
            if math.isfinite(share):  # of a handful of positions the exact values may not vary
                metrics[name]["validation_explained_variance"] = round(share, 4)
    return metrics


def probe_scales(
    probe: Probe, embeddings: Tensor, held: Held, objectives: Sequence[str], run: FastRun
) -> dict[str, float]:
    """Objective -> the scale at which tilts of the base's states cost what weight 1 should, a reply."""
    predicted = predict(probe, embeddings, held.data)
    replies = int((held.data.place == 0).sum())
    target = run.recipe.calibrate.target_kl * replies / len(held.data)
    found = {}
    for place, name in enumerate(objectives):
        scale = scale_at_kl(predicted[..., place].double(), held.data.base_logprobs.double(), target)
        found[name] = min(max(scale, _SMALLEST_SCALE), _LARGEST_SCALE)
    return found


def _values(probe: Probe, embeddings: Tensor, hidden: Tensor, token_ids: Tensor) -> Tensor:
    # Candidates recur from position to position: each token's features are computed once a batch.
    tokens, places = torch.unique(token_ids, return_inverse=True)
    features = functional.embedding(places, probe.token(embeddings[tokens]))
    found: Tensor = probe(hidden, features, token_ids)
    return found
