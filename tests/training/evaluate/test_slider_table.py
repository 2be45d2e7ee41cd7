"""The slider table's statistics, and which settings it tries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.evaluate.slider_table import (
    SliderRow,
    SliderSetting,
    distinct_share,
    monotone_failures,
    slider_row,
    slider_settings,
)
from training.rollouts.scored import Scored
from training.rollouts.shards import Rollout
from training.statistics.bootstrap import mean_estimate, ratio_estimate

FIGURES = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


@given(FIGURES)
def test_mean_lies_within_its_interval_and_the_interval_within_the_data(figures: list[float]) -> None:
    estimate = mean_estimate(figures)
    assert estimate.value == pytest.approx(np.mean(figures))
    assert min(figures) - 1e-9 <= estimate.low <= estimate.high <= max(figures) + 1e-9


def test_samples_of_one_prompt_do_not_count_as_independent() -> None:
    rng = np.random.default_rng(0)
    by_prompt = np.repeat(rng.normal(size=(40, 1)), 10, axis=1)
    grouped, pooled = mean_estimate(by_prompt), mean_estimate(by_prompt.ravel())
    assert grouped.value == pytest.approx(pooled.value)
    assert grouped.high - grouped.low > 2 * (pooled.high - pooled.low)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    estimates = [mean_estimate(rng.normal(size=(30, 3)), seed) for seed in range(200)]
    assert 0.88 <= np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates]) <= 0.99


def test_estimates_are_the_same_when_repeated() -> None:
    assert mean_estimate([1.0, 4.0, 2.0]) == mean_estimate([1.0, 4.0, 2.0])


def test_ratio_is_of_pairs_so_a_slow_machine_cancels_out() -> None:
    machine = np.array([100.0, 50.0, 10.0, 80.0])
    estimate = ratio_estimate(0.9 * machine, machine)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((0.9, 0.9, 0.9))


def test_ratio_and_its_inverse_agree() -> None:
    a, b = [10.0, 20.0, 15.0], [12.0, 18.0, 19.0]
    assert ratio_estimate(a, b).value == pytest.approx(1 / ratio_estimate(b, a).value)


def test_settings_are_the_base_each_objective_alone_and_all_together() -> None:
    settings = [dict(setting.weights) for setting in slider_settings(("a", "b"), (-1, 0, 1))]
    assert settings == [{}, {"a": -1}, {"a": 1}, {"b": -1}, {"b": 1}, {"a": 0.5, "b": 0.5}]


def test_one_objective_has_no_joint_setting() -> None:
    assert [dict(s.weights) for s in slider_settings(("a",), (0.5,))] == [{}, {"a": 0.5}]


def test_shift_is_paired_and_in_the_bases_spread() -> None:
    base = np.array([[0.0, 10.0], [-5.0, 3.0]])
    row = _row({"a": 1.0}, base + 1.5, base)
    shift = row.objectives["a"].shift
    assert (shift.low, shift.value, shift.high) == pytest.approx((0.75, 0.75, 0.75))
    assert row.objectives["a"].reward.value == pytest.approx(3.5)


def test_row_counts_nats_and_tokens_a_reply() -> None:
    row = _row({"a": 1.0}, np.zeros((2, 2)), np.zeros((2, 2)))
    assert row.kl_nats.value == pytest.approx(1.5)
    assert row.tokens == 3


def test_reward_that_falls_from_one_weight_to_the_next_is_named() -> None:
    base = np.zeros((2, 2))
    rows = [_row({}, base, base), _row({"a": 1.0}, base + 2, base), _row({"a": 0.5}, base + 3, base)]
    assert monotone_failures(rows[:2], ["a"]) == []
    assert monotone_failures(rows, ["a"]) == ["a falls from 3.000 at +0.5 to 2.000 at +1"]


@pytest.mark.parametrize(
    ("texts", "share"),
    [([], 0.0), (["one"], 0.0), (["a b a b"], 2 / 3), (["a b", "A, b!"], 0.5), (["a b c", "d e f"], 1.0)],
)
def test_distinct_pairs_of_words_are_counted_over_all_replies(texts: list[str], share: float) -> None:
    assert distinct_share(texts, 2) == pytest.approx(share)


def _row(weights: dict[str, float], rewards: NDArray[np.float64], base: NDArray[np.float64]) -> SliderRow:
    replies = [
        Rollout(str(prompt), "test", sample, (1,), (1, 2, 3), "a b c", "length", kl_nats=float(prompt + sample + 0.5))
        for prompt in range(2)
        for sample in range(2)
    ]
    kl_nats = np.reshape([reply.kl_nats for reply in replies], (2, 2))
    of_setting, of_base = (Scored(replies, kl_nats, {"a": figures}) for figures in (rewards, base))
    return slider_row(SliderSetting(weights), of_setting, of_base, {"a": 2.0})
