"""Confidence intervals by resampling. numpy only.

What is resampled is the unit that was drawn independently: a prompt with all its replies, or a pair of timings.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_estimate(by_unit: ArrayLike, seed: int = 0) -> Estimate:
    """The mean over all samples of all units.

    Args:
        by_unit: [units, samples] or [units].
    """
    values = _as_units(by_unit)
    return estimate_of(values.mean(), values[draws(len(values), seed)].mean(axis=1))


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike, seed: int = 0) -> Estimate:
    """The ratio of two paired sets of positive figures: the geometric mean of the pairs' ratios.

    Args:
        numerators, denominators: [pairs].
    """
    logs = np.log(np.asarray(numerators, dtype=float) / np.asarray(denominators, dtype=float))
    return estimate_of(np.exp(logs.mean()), np.exp(logs[draws(len(logs), seed)].mean(axis=1)))


def _as_units(by_unit: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(by_unit, dtype=float)
    return values if values.ndim == 1 else values.mean(axis=1)


def draws(units: int, seed: int = 0) -> NDArray[np.int64]:
    """[RESAMPLES, units] indices: every draw is of as many units as there are; equal seeds draw alike."""
    return np.random.default_rng(seed).integers(units, size=(RESAMPLES, units))


def estimate_of(value: float, resampled: NDArray[np.float64]) -> Estimate:
    """A figure with the interval that holds 95% of its resampled values."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))
