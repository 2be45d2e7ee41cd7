"""What a round is worth, on figures whose answer is known."""

import numpy as np
import pytest

from training.judge.stage import judge_settings
from training.judge.verdict import SettingByPrompt, is_kept, verdict_on
from training.statistics.bootstrap import Estimate


def figures(gain: float, kl_nats: float, prompts: int = 50, noise: float = 0.0, seed: int = 0) -> SettingByPrompt:
    by_prompt = gain + noise * np.random.default_rng(seed).standard_normal(prompts)
    return SettingByPrompt(by_prompt.tolist(), [kl_nats] * prompts)


def test_gains_are_read_off_at_the_target_in_the_root_of_the_kl() -> None:
    round_ = {"a": figures(1.0, 4.0), "b": figures(2.0, 9.0)}
    found = verdict_on(round_, round_, 9.0, 0.1)
    assert found.gains["a"].value == pytest.approx(1.5) and found.gains["b"].value == pytest.approx(2.0)
    assert found.worth.value == pytest.approx((1.5 + 2.0) / 2 - 0.1 * 9.0)
    assert found.kl_nats["b"].value == 9.0


def test_rounds_are_set_against_the_first_prompt_by_prompt() -> None:
    """What all rounds share, some prompts that are easy, must not widen the interval of the difference."""
    first, later = figures(1.0, 5.0, noise=1.0), figures(1.1, 5.0, noise=1.0)
    found = verdict_on({"a": later}, {"a": first}, 5.0, 0.0)
    assert found.over_first.value == pytest.approx(0.1)
    assert found.over_first.high - found.over_first.low < 1e-9 < found.worth.high - found.worth.low
    assert found.gains_over_first["a"].low == pytest.approx(0.1)


def test_a_tilt_that_costs_nothing_gains_nothing() -> None:
    found = verdict_on({"a": figures(0.3, 0.0)}, {"a": figures(0.3, 0.0)}, 5.0, 0.1)
    assert found.gains["a"] == Estimate(0.0, 0.0, 0.0)


@pytest.mark.parametrize(("low", "kept"), [(0.5, True), (0.6, True), (0.49, False)])
def test_a_round_is_kept_where_its_lower_bound_does_not_fall(low: float, kept: bool) -> None:
    assert is_kept(Estimate(0.9, low, 1.2), Estimate(0.8, 0.5, 1.1)) is kept
    assert is_kept(Estimate(0.9, low, 1.2), None)


def test_settings_are_each_objective_alone_and_all_together_at_about_the_same_cost() -> None:
    assert judge_settings(["a"]) == {"a": {"a": 1.0}}
    found = judge_settings(["a", "b", "c", "d"])
    assert list(found) == ["a", "b", "c", "d", "together"] and found["together"] == dict.fromkeys("abcd", 0.5)
