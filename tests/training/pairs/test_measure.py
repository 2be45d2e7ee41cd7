"""Figures of a reward model, against cases whose figures are known."""

import math

import numpy as np
import pytest

from training.pairs.measure import pair_figures
from training.pairs.pairs import Pair


def pairs(lengths: list[tuple[int, int]]) -> list[Pair]:
    return [Pair((("user", str(n)),), "x" * first, "x" * second) for n, (first, second) in enumerate(lengths)]


def test_a_perfect_a_wrong_and_an_empty_model() -> None:
    some = pairs([(3, 1), (1, 5), (2, 2), (4, 4)])
    perfect = pair_figures(some, [9.0] * 4, [0.0] * 4)
    assert perfect.accuracy.value == 1 and perfect.log_loss < 1e-3 and perfect.calibration_error < 1e-3
    assert pair_figures(some, [0.0] * 4, [9.0] * 4).accuracy.value == 0
    empty = pair_figures(some, [1.0] * 4, [1.0] * 4)
    assert empty.accuracy.value == 0.5 and empty.log_loss == pytest.approx(math.log(2))
    assert empty.calibration_error == pytest.approx(0) and math.isnan(empty.length_correlation)
    assert empty.by_length.value == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)


def test_a_reward_that_is_length_is_found_out() -> None:
    some = pairs([(3, 1), (1, 5), (2, 8), (4, 7)])
    found = pair_figures(some, [len(p.chosen) for p in some], [len(p.rejected) for p in some])
    assert found.length_correlation == pytest.approx(1) and found.accuracy == found.by_length


@pytest.mark.parametrize(("times", "error"), [(1.0, 0.0), (3.0, 0.13)])
def test_calibration_tells_a_model_that_is_sure_from_one_that_is_too_sure(times: float, error: float) -> None:
    dice = np.random.default_rng(0)
    margins = dice.normal(0, 1.5, 20000)
    won = np.where(dice.random(20000) < 1 / (1 + np.exp(-margins)), margins, -margins) * times
    found = pair_figures(pairs([(1, 2)] * len(won)), won.tolist(), [0.0] * len(won))
    assert found.calibration_error == pytest.approx(error, abs=0.03)
