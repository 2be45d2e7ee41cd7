"""How good a reward model is, on pairs that it was not trained on. No torch, no vllm."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from training.pairs.pairs import Pair
from training.statistics.bootstrap import Estimate, mean_estimate

BINS = 5


@dataclass(frozen=True, slots=True)
class PairFigures:
    """Of held-out pairs.

    Attributes:
        accuracy: how often the chosen reply scores higher; ties count half.
        by_length: how often it is the longer one, which any reward has to beat.
        log_loss: of Bradley-Terry's probability, sigmoid of the difference in reward; ln 2 = 0.693 is a coin's.
        calibration_error: mean gap between that probability and how often it came true, over `BINS` equal parts of the
            pairs; 0 is perfect.
        length_correlation: Pearson's, of reward and characters over all replies: near 1, it is a measure of length.
    """

    pairs: int
    accuracy: Estimate
    by_length: Estimate
    log_loss: float
    calibration_error: float
    length_correlation: float


def pair_figures(pairs: Sequence[Pair], chosen: Sequence[float], rejected: Sequence[float]) -> PairFigures:
    """Figures of the rewards of each pair's replies."""
    margins = np.asarray(chosen, dtype=float) - np.asarray(rejected, dtype=float)
    lengths = [(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    rewards = [*chosen, *rejected]
    characters = [first for first, _ in lengths] + [second for _, second in lengths]
    varies = np.std(rewards) > 0 and np.std(characters) > 0
    return PairFigures(
        pairs=len(pairs),
        accuracy=mean_estimate(_wins(margins)),
        by_length=mean_estimate(_wins(np.asarray([first - second for first, second in lengths], dtype=float))),
        log_loss=fmean(float(np.logaddexp(0.0, -margin)) for margin in margins),
        calibration_error=_calibration_error(margins),
        length_correlation=float(np.corrcoef(rewards, characters)[0, 1]) if varies else math.nan,
    )


def _wins(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where the first of two scores higher, 0 where the second does, and half for a tie."""
    return (np.sign(margins) + 1) / 2


def _calibration_error(margins: NDArray[np.float64]) -> float:
    """Of the reply that the model prefers, so that every probability is 0.5 or more."""
    told = 1 / (1 + np.exp(-np.abs(margins)))
    came_true = _wins(margins)
    parts = [part for part in np.array_split(np.argsort(told, kind="stable"), BINS) if len(part)]
    return sum(abs(float(np.mean(told[part] - came_true[part]))) * len(part) for part in parts) / len(margins)
