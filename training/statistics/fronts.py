"""What a set of compromises between objectives is worth, with intervals by prompt. numpy, and moocore.

Rewards are compared in one unit: as far from the base's own as so many standard deviations of the base's reward. The
reference point of hypervolumes lies one of them below the base in every objective, for all methods alike.
"""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from training.statistics.bootstrap import RESAMPLES, draws

Figures = NDArray[np.float64]

REFERENCE = -1.0


def resampled_means(by_prompt: Figures, seed: int = 0) -> Figures:
    """The means over all prompts, and over `RESAMPLES` draws of as many: the same draws for all that has these prompts.

    Args:
        by_prompt: [points, prompts, objectives].

    Returns:
        [1 + RESAMPLES, points, objectives], the plain means first.
    """
    prompts = by_prompt.shape[1]
    chosen = draws(prompts, seed)
    # Through counts: [resamples, prompts] times [prompts, points x objectives], instead of a copy for every draw.
    counts = np.zeros((RESAMPLES, prompts))
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], chosen), 1.0)
    flat = by_prompt.transpose(1, 0, 2).reshape(prompts, -1)
    means = np.concatenate([np.full((1, prompts), 1 / prompts), counts / prompts]) @ flat
    found: Figures = means.reshape(1 + RESAMPLES, by_prompt.shape[0], by_prompt.shape[2])
    return found


def hypervolume(points: Figures) -> float:
    """Of the part of [points, objectives], more being better, that lies above `REFERENCE`."""
    above = points[(points > REFERENCE).all(axis=1)]
    if not len(above):
        return 0.0
    return float(moocore.hypervolume(above, ref=np.full(points.shape[1], REFERENCE), maximise=True))


def mean_inner_product(points: Figures, shares: Figures) -> float:
    """MIP: the mean over mixes of <shares, rewards>, each mix with the rewards that it was answered with.

    Args:
        points, shares: [mixes, objectives].
    """
    return float((points * shares).sum(axis=1).mean())


def of_each(means: Figures, shares: Figures) -> tuple[Figures, Figures]:
    """Hypervolume and MIP of every draw, [draws] each.

    Args:
        means: [draws, mixes, objectives]; shares: [mixes, objectives].
    """
    volumes: Sequence[float] = [hypervolume(points) for points in means]
    products: Sequence[float] = [mean_inner_product(points, shares) for points in means]
    return np.asarray(volumes), np.asarray(products)
