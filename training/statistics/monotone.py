"""How faithfully a mean follows a setting: Spearman's rank correlation, with an interval. numpy and scipy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from training.statistics.bootstrap import Estimate, draws, estimate_of

Figures = NDArray[np.float64]


def spearman_estimate(settings: Sequence[float], by_prompt: Figures, seed: int = 0) -> Estimate:
    """Rank correlation of a setting and the mean over prompts that was measured at it: 1 where the mean always rises.

    Prompts are resampled, each with all of its figures. Where all means are equal, nothing follows anything: 0.

    Args:
        settings: at least two, all different; by_prompt: [settings, prompts].
    """
    prompts = by_prompt.shape[1]
    chosen = draws(prompts, seed)
    means = np.concatenate([by_prompt.mean(axis=1)[None], by_prompt[:, chosen].mean(axis=2).T])
    ranks = _centred(rankdata(means, axis=1))
    wanted = _centred(rankdata(settings)[None])
    products = (ranks * wanted).sum(axis=1)
    sizes = np.sqrt((ranks**2).sum(axis=1) * (wanted**2).sum())
    found = np.divide(products, sizes, out=np.zeros_like(products), where=sizes > 0)
    return estimate_of(float(found[0]), found[1:])


def _centred(ranks: Figures) -> Figures:
    centred: Figures = ranks - ranks.mean(axis=1, keepdims=True)
    return centred
