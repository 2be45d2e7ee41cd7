"""How well a probe stands in for exact values, at positions of prompts it was not fitted to.

Runs in the fit's process. Imports torch, never vllm.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from training.distill.positions import PositionData
from training.distill.targets import TiltComparison, compare_tilts, explained_advantage
from training.prompts.chat import SplitName
from valuemodels.models.probe import Probe
from valuemodels.tilting import advantages_of

HELD_OUT: tuple[SplitName, ...] = ("validation", "test")
_BATCH = 2048
_LARGEST_RATIO = 8.0


def probe_advantages(probe: Probe, embeddings: Tensor, batch: PositionData) -> Tensor:
    """The probe's advantages, against the same expectation as `PositionData.advantages`.

    Args:
        embeddings: [vocabulary, embedding], all of `unit_rms`.

    Returns:
        [positions, k, objectives], 0 where there is no candidate; differentiable in the probe's parameters.
    """
    # Candidates recur from position to position: each token's features are computed once a batch.
    tokens, places = torch.unique(batch.token_ids, return_inverse=True)
    features = functional.embedding(places, probe.token(embeddings[tokens]))
    values = probe(batch.hidden, features, batch.token_ids.long())
    present = (batch.base_logprobs > float("-inf"))[..., None]
    return advantages_of(values, batch.base_logprobs).where(present, 0.0)


@torch.no_grad()
def predict(probe: Probe, embeddings: Tensor, data: PositionData) -> Tensor:
    """`probe_advantages` of all positions, in their order."""
    return torch.cat([probe_advantages(probe, embeddings, batch) for batch in data.batches(_BATCH)])


def probe_metrics(
    probe: Probe, embeddings: Tensor, held_out: Mapping[SplitName, PositionData], scales: Mapping[str, float]
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Figures for each objective.

    Args:
        held_out: has "validation".
        scales: objective -> s_i for exact scoring, in the order of the values.

    Returns:
        objective -> {"validation_explained_variance", "validation_tilt_kl", "validation_gain_kept", ...}, the last two
        at weight 1 (see `TiltComparison`); objective -> the probe's scale whose tilts cost as much there.
    """
    metrics: dict[str, dict[str, float]] = {name: {} for name in scales}
    starts: dict[str, float] = {}
    for split, data in held_out.items():
        predicted = predict(probe, embeddings, data)
        explained = explained_advantage(predicted, data.advantages, data.base_logprobs).tolist()
        for place, (name, scale) in enumerate(scales.items()):
            tilts = compare_tilts(predicted[..., place], data.advantages[..., place], data.base_logprobs, scale)
            metrics[name] |= _figures(split, explained[place], tilts)
            if split == "validation":
                # A probe that learned nothing must not send the search astray.
                starts[name] = min(max(tilts.scale, scale / _LARGEST_RATIO), scale * _LARGEST_RATIO)
    return metrics, starts


def _figures(split: SplitName, explained: float, tilts: TiltComparison) -> dict[str, float]:
    figures = {"explained_variance": explained, "tilt_kl": tilts.kl_nats, "gain_kept": tilts.gain_kept}
    # Of a handful of positions the exact values may not vary.
    return {f"{split}_{name}": round(figure, 4) for name, figure in figures.items() if math.isfinite(figure)}
