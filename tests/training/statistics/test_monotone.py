"""Rank correlation of a setting and a mean: what it is on known figures, and its interval."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from training.statistics.monotone import spearman_estimate

SETTINGS = [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_it_is_scipys_own_of_the_means() -> None:
    figures = np.random.default_rng(0).normal(size=(5, 30)) + np.array([0.0, 0.4, 0.2, 0.5, 0.3])[:, None]
    found = spearman_estimate(SETTINGS, figures)
    assert found.value == pytest.approx(spearmanr(SETTINGS, figures.mean(axis=1)).statistic)
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_a_mean_that_always_rises_follows_surely_and_noise_does_not() -> None:
    noise = np.random.default_rng(1).normal(size=(5, 60))
    sure = spearman_estimate(SETTINGS, noise + 5 * np.array(SETTINGS)[:, None])
    assert (sure.low, sure.value, sure.high) == (1.0, 1.0, 1.0)
    unsure = spearman_estimate(SETTINGS, noise)
    assert unsure.high - unsure.low > 0.5


def test_settings_may_come_in_any_order() -> None:
    figures = np.random.default_rng(2).normal(size=(5, 40)) + np.array(SETTINGS)[:, None]
    order = [0, 3, 1, 4, 2]
    assert spearman_estimate([SETTINGS[n] for n in order], figures[order]) == spearman_estimate(SETTINGS, figures)


def test_what_never_changes_follows_nothing() -> None:
    assert spearman_estimate(SETTINGS, np.ones((5, 7))).value == 0.0
