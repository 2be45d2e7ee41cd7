"""Comparing two ways of tilting at the same cost. numpy only.

For a small tilt of strength b the KL grows with b squared and the gain with b, so gains grow with the root of the KL
(method of the reward-against-root-KL plots in the literature on RL from human feedback). Two conditions whose costs
differ by a few percent are therefore compared as gain / sqrt(KL).
"""

import numpy as np
from numpy.typing import NDArray

from training.errors import MeasurementError
from training.evaluate.bootstrap import RESAMPLES, Estimate, estimate_of

_KL_SLOPE = 1.7
"""d log KL / d log strength of moderate tilts: 2 at none, less once a tilt saturates."""


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


def kept_gain(
    gain: NDArray[np.float64],
    kl_nats: NDArray[np.float64],
    reference_gain: NDArray[np.float64],
    reference_kl_nats: NDArray[np.float64],
    seed: int = 0,
) -> Estimate | None:
    """gain / reference gain at the reference's KL; prompts are resampled with all their replies, in all conditions.

    Args:
        gain, kl_nats, reference_gain, reference_kl_nats: [prompts, samples].

    Returns:
        None where the reference gains nothing, or a tilt costs nothing: there is no share of that.
    """
    columns = np.stack([array.mean(axis=1) for array in (gain, kl_nats, reference_gain, reference_kl_nats)])
    if not (columns[1:].mean(axis=1) > 0).all():
        return None
    prompts = columns.shape[1]
    chosen = np.random.default_rng(seed).integers(prompts, size=(RESAMPLES, prompts))
    return estimate_of(float(_kept(*columns.mean(axis=1))), _kept(*columns[:, chosen].mean(axis=2)))


def _kept(
    gain: NDArray[np.float64], kl: NDArray[np.float64], reference: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    # A resample of few prompts may hold none that gains or costs anything.
    with np.errstate(divide="ignore", invalid="ignore"):
        kept: NDArray[np.float64] = gain * np.sqrt(at / kl) / reference
    return kept
