"""Comparing two ways of tilting at the same cost. numpy only.

For a small tilt of strength b the KL grows with b squared and the gain with b, so gains are drawn over the root of the
KL (as reward-against-root-KL plots in the literature on RL from human feedback are), and are nearly straight there. A
way's gain at some other cost is therefore interpolated linearly between its measured strengths, in the root of the KL.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.errors import MeasurementError
from training.statistics.bootstrap import RESAMPLES, Estimate, draws, estimate_of

_KL_SLOPE = 1.7
"""d log KL / d log strength of moderate tilts: 2 at none, less once a tilt saturates."""

Figures = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tilted:
    """Replies tilted one way at one strength.

    Attributes:
        gain, kl_nats: [prompts, samples]; the gain is over the base's replies to the same prompts at the same seeds.
    """

    gain: Figures
    kl_nats: Figures


@dataclass(frozen=True, slots=True)
class EqualCost:
    """Two ways at the reference's cost.

    Attributes:
        gain: of the way in question, at the reference's KL; ratio: to the reference's gain, None where that gains
            nothing.
    """

    gain: Estimate
    reference_gain: Estimate
    kl_nats: Estimate
    ratio: Estimate | None


def matching_strength(kl_nats: float, target_nats: float, what: str) -> float:
    """The strength at which a tilt that costs `kl_nats` at strength 1 should cost `target_nats`.

    Args:
        what: names the tilt in messages.

    Raises:
        MeasurementError: one of them costs nothing, so that no strength makes them alike.
    """
    if not (kl_nats > 0 and target_nats > 0):
        way = "exact" if not target_nats > 0 else "fast"
        raise MeasurementError(
            f"{what}: tilts by {way} values cost 0 nats, so the two cannot be compared at the same KL: "
            "these values do not tell candidates apart"
        )
    return float((target_nats / kl_nats) ** (1 / _KL_SLOPE))


def at_equal_cost(ways: Sequence[Tilted], reference: Tilted, seed: int = 0) -> EqualCost:
    """The gain of a way at the reference's KL; prompts are resampled with all their replies, in all conditions at once.

    Args:
        ways: one way of tilting at one or more strengths.
    """
    gains = np.stack([tilted.gain.mean(axis=1) for tilted in ways])
    costs = np.stack([tilted.kl_nats.mean(axis=1) for tilted in ways])
    columns = np.stack([reference.gain.mean(axis=1), reference.kl_nats.mean(axis=1)])
    prompts = columns.shape[1]
    chosen = draws(prompts, seed)
    drawn_gains, drawn_costs = gains[:, chosen].mean(axis=2), costs[:, chosen].mean(axis=2)
    drawn = columns[:, chosen].mean(axis=2)
    value = gain_at(gains.mean(axis=1), costs.mean(axis=1), columns[1].mean())
    resampled = np.array([gain_at(drawn_gains[:, r], drawn_costs[:, r], drawn[1, r]) for r in range(RESAMPLES)])
    mean = columns[0].mean()
    ratio = None
    if mean > 0:
        # A resample of few prompts may hold none that gains anything: its ratio is as bad as can be.
        ratios = np.divide(resampled, drawn[0], out=np.zeros(RESAMPLES), where=drawn[0] > 0)
        ratio = estimate_of(value / mean, ratios)
    return EqualCost(
        gain=estimate_of(value, resampled),
        reference_gain=estimate_of(mean, drawn[0]),
        kl_nats=estimate_of(columns[1].mean(), drawn[1]),
        ratio=ratio,
    )


def gain_at(gains: Figures, kl_nats: Figures, target: float) -> float:
    """What a way gains at a cost: linear in the root of the KL between the base, which is free, and its strengths.

    Beyond its dearest strength the gain stays, so that nobody is credited with what was not measured.

    Args:
        gains, kl_nats: [strengths].
    """
    order = np.argsort(kl_nats)
    roots = np.sqrt(np.concatenate([[0.0], kl_nats[order]]))
    return float(np.interp(np.sqrt(target), roots, np.concatenate([[0.0], gains[order]])))
