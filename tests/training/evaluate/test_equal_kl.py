"""Gains at equal cost, on figures whose answer is known."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.errors import MeasurementError
from training.evaluate.equal_kl import kept_gain, matching_strength


def test_at_equal_kl_it_is_the_ratio_of_the_gains() -> None:
    gain = np.full((10, 4), 0.9)
    kept = kept_gain(gain, np.full((10, 4), 5.0), np.full((10, 4), 1.0), np.full((10, 4), 5.0))
    assert kept is not None
    assert kept.value == pytest.approx(0.9) and kept.low == pytest.approx(0.9) == kept.high


def test_a_dearer_tilt_is_credited_only_with_what_it_would_gain_at_the_references_cost() -> None:
    ones = np.ones((6, 2))
    kept = kept_gain(ones, 4 * ones, ones, ones)
    assert kept is not None and kept.value == pytest.approx(0.5)


def test_the_interval_resamples_prompts_not_samples() -> None:
    """Replies to one prompt are alike: a hundred copies of the same reply must not narrow the interval."""
    rng = np.random.default_rng(0)
    by_prompt = 1 + rng.normal(size=(30, 1))
    ones = np.ones((30, 1))
    few = kept_gain(by_prompt, ones, ones, ones)
    copies, many_ones = np.repeat(by_prompt, 100, axis=1), np.ones((30, 100))
    many = kept_gain(copies, many_ones, many_ones, many_ones)
    assert few is not None and many is not None
    assert many.high - many.low == pytest.approx(few.high - few.low)


@given(kl=st.floats(0.1, 50), target=st.floats(0.1, 50))
@settings(deadline=None)
def test_the_matching_strength_rises_with_the_cost_wanted(kl: Any, target: Any) -> None:
    strength = matching_strength(kl, target, "warmth +1")
    assert (strength > 1) == (target > kl) or strength == pytest.approx(1)


@pytest.mark.parametrize(("kl", "target", "way"), [(0.0, 5.0, "fast"), (5.0, 0.0, "exact"), (0.0, 0.0, "exact")])
def test_a_tilt_that_costs_nothing_is_one_sentence(kl: Any, target: Any, way: Any) -> None:
    """Would catch the division by zero that a head which learned nothing used to end in."""
    with pytest.raises(MeasurementError, match=f"warmth \\+1: tilts by {way} values cost 0 nats"):
        matching_strength(kl, target, "warmth +1")


def test_there_is_no_share_of_a_gain_that_is_none() -> None:
    ones, zeros = np.ones((6, 2)), np.zeros((6, 2))
    assert kept_gain(ones, ones, zeros, ones) is None
    assert kept_gain(ones, zeros, ones, ones) is None


def test_resamples_without_a_gain_end_in_no_error() -> None:
    gain = np.array([[1.0], [0.0], [0.0]])
    kept = kept_gain(gain, gain, gain, gain)
    assert kept is not None and kept.value == pytest.approx(1.0)
