"""Comparing two ways of tilting at the same cost. numpy only.

For a small tilt of strength b the KL grows with b squared and the gain with b, so gains grow with the root of the KL
(method of the reward-against-root-KL plots in the literature on RL from human feedback). Two arms whose costs differ by
a few percent are therefore compared as gain / sqrt(KL).
"""

import numpy as np
from numpy.typing import NDArray

from training.bootstrap import RESAMPLES, Estimate, estimate_of

_KL_SLOPE = 1.7
"""d log KL / d log strength of moderate tilts: 2 at none, less once a tilt saturates."""


def matching_strength(kl_nats: float, target_nats: float) -> float:
    """The strength at which a tilt that costs `kl_nats` at strength 1 should cost `target_nats`."""
    return float((target_nats / kl_nats) ** (1 / _KL_SLOPE))


def kept_gain(
    gain: NDArray[np.float64],
    kl_nats: NDArray[np.float64],
    reference_gain: NDArray[np.float64],
    reference_kl_nats: NDArray[np.float64],
    seed: int = 0,
) -> Estimate:
    """gain / reference gain at the reference's KL; prompts are resampled with all their replies, in all arms at once.

    Args:
        gain, kl_nats, reference_gain, reference_kl_nats: [prompts, samples].
    """
    columns = np.stack([array.mean(axis=1) for array in (gain, kl_nats, reference_gain, reference_kl_nats)])
    prompts = columns.shape[1]
    chosen = np.random.default_rng(seed).integers(prompts, size=(RESAMPLES, prompts))
    return estimate_of(float(_kept(*columns.mean(axis=1))), _kept(*columns[:, chosen].mean(axis=2)))


def _kept(
    gain: NDArray[np.float64], kl: NDArray[np.float64], reference: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    kept: NDArray[np.float64] = gain * np.sqrt(at / kl) / reference
    return kept
