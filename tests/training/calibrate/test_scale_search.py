"""Calibration finds the scale that costs the target, on curves like those a tilt has."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.calibrate.scale_search import Trial, find_scale, matching_trial, next_scale
from training.errors import CalibrationError

TARGET = 4.8


def _saturating(strength: float, ceiling: float) -> Callable[[float], float]:
    """Quadratic for weak tilts, flattening towards a ceiling: what a tilt over few candidates does."""

    def kl_nats(scale: float) -> float:
        weak = strength * scale**2
        return weak * ceiling / (weak + ceiling)

    return kl_nats


@given(st.floats(0.01, 3.0), st.floats(20.0, 200.0), st.floats(1.0, 10.0))
def test_target_is_met_within_six_trials_on_any_such_curve(strength: float, ceiling: float, start: float) -> None:
    trials = find_scale(_saturating(strength, ceiling), TARGET, 0.2, start, 6)
    assert abs(matching_trial(trials, TARGET, 0.2, "warmth").kl_nats - TARGET) <= 0.2


@given(st.floats(2.2, 4.5), st.floats(1.0, 10.0))
def test_a_cost_that_rises_far_more_steeply_than_a_square_is_met_too(slope: float, met_at: float) -> None:
    """As of questions, each of which makes another likelier: it took secants of a bounded slope from side to side."""
    trials = find_scale(lambda scale: TARGET * (scale / met_at) ** slope, TARGET, 0.2, 4.0, 6)
    assert abs(matching_trial(trials, TARGET, 0.2, "curiosity").kl_nats - TARGET) <= 0.2


def test_search_stops_as_soon_as_a_scale_is_near_enough() -> None:
    assert len(find_scale(lambda scale: scale**1.7, TARGET, 0.2, start=TARGET ** (1 / 1.7), max_evaluations=4)) == 1


def test_power_law_of_the_assumed_slope_takes_two_trials() -> None:
    assert len(find_scale(lambda scale: scale**1.7, TARGET, 0.01, start=4.0, max_evaluations=4)) == 2


def test_noise_never_leads_out_of_the_bracket() -> None:
    noise = iter([0.0, 0.6, -0.5, 0.4, -0.3, 0.2])
    curve = _saturating(0.2, 60.0)
    trials = find_scale(lambda scale: curve(scale) + next(noise), TARGET, 0.01, 4.0, 6)
    for number in range(2, len(trials)):
        known = trials[:number]
        below = [trial.scale for trial in known if trial.kl_nats < TARGET]
        above = [trial.scale for trial in known if trial.kl_nats > TARGET]
        if below and above:
            assert max(below) < trials[number].scale < min(above)


def test_step_is_never_more_than_a_factor_of_four() -> None:
    trials = find_scale(lambda scale: 1e-6 * scale**2, TARGET, 0.2, 4.0, 3)
    assert all(later.scale <= 4.001 * earlier.scale for earlier, later in pairwise(trials))


def test_trials_are_limited_and_the_nearest_is_the_answer() -> None:
    curve = {1.0: 1.0}
    trials = find_scale(lambda scale: curve.setdefault(scale, 1.0 + scale), TARGET, 1e-9, 1.0, 3)
    assert len(trials) == 3
    nearest = matching_trial(trials, TARGET, 5.0, "warmth")
    assert all(abs(nearest.kl_nats - TARGET) <= abs(trial.kl_nats - TARGET) for trial in trials)


def test_trials_that_all_miss_the_target_are_an_error() -> None:
    """Would catch a slider shipped at a scale that costs something else than what it promises."""
    trials = [Trial(1.0, 2.0), Trial(2.0, 7.0)]
    with pytest.raises(CalibrationError, match=r"warmth: no scale of 2 costs .*; raise calibrate\.max_evaluations"):
        matching_trial(trials, 4.8, 0.2, "warmth")


@pytest.mark.parametrize("kl_nats", [0.0, math.nan, math.inf, -1.0])
def test_values_that_do_not_tilt_are_an_error(kl_nats: float) -> None:
    with pytest.raises(CalibrationError, match=r"scale 4 costs .* nats, allowed is"):
        find_scale(lambda scale: kl_nats, TARGET, 0.2, 4.0, 3)


def test_next_scale_rises_when_the_cost_is_too_low() -> None:
    trials = find_scale(lambda scale: 1.0, TARGET, 0.2, 2.0, 1)
    assert next_scale(trials, TARGET) > 2.0
