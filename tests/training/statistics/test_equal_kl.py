"""Gains at equal cost, on figures whose answer is known."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.errors import MeasurementError
from training.statistics.equal_kl import Figures, Tilted, at_equal_cost, gain_at, matching_strength


def tilted(gain: float | Figures, kl_nats: float, samples: int = 2) -> Tilted:
    gains = np.full((6, samples), gain) if isinstance(gain, float) else gain
    return Tilted(gains, np.full(gains.shape, kl_nats))


def test_at_equal_kl_it_is_the_ratio_of_the_gains() -> None:
    found = at_equal_cost([tilted(0.9, 5.0)], tilted(1.0, 5.0))
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(0.9) and found.ratio.low == pytest.approx(0.9) == found.ratio.high
    assert found.kl_nats.value == 5.0 and found.reference_gain.value == 1.0 and found.gain.value == pytest.approx(0.9)


def test_a_dearer_tilt_is_credited_only_with_what_it_would_gain_at_the_references_cost() -> None:
    found = at_equal_cost([tilted(1.0, 4.0)], tilted(1.0, 1.0))
    assert found.gain.value == pytest.approx(0.5)


def test_a_cheaper_tilt_is_not_credited_with_what_was_not_measured() -> None:
    assert at_equal_cost([tilted(1.0, 1.0)], tilted(1.0, 4.0)).gain.value == pytest.approx(1.0)


def test_between_two_strengths_it_is_linear_in_the_root() -> None:
    found = at_equal_cost([tilted(3.0, 9.0), tilted(2.0, 1.0)], tilted(1.0, 4.0))
    assert found.gain.value == pytest.approx(2.5)


@given(
    points=st.lists(st.tuples(st.integers(1, 30), st.floats(-3, 3)), min_size=1, max_size=4, unique_by=lambda p: p[0])
)
@settings(deadline=None)
def test_curve_passes_through_what_was_measured(points: list[tuple[int, float]]) -> None:
    kl_nats, gains = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    for cost, gain in points:
        assert gain_at(gains, kl_nats, cost) == pytest.approx(gain, abs=1e-6)
    assert gain_at(gains, kl_nats, 0.0) == 0.0


def test_the_interval_resamples_prompts_not_samples() -> None:
    """Replies to one prompt are alike: a hundred copies of the same reply must not narrow the interval."""
    by_prompt = 1 + np.random.default_rng(0).normal(size=(30, 1))
    ones = np.ones((30, 1))
    few = at_equal_cost([Tilted(by_prompt, ones)], Tilted(ones, ones)).ratio
    copies, many_ones = np.repeat(by_prompt, 100, axis=1), np.ones((30, 100))
    many = at_equal_cost([Tilted(copies, many_ones)], Tilted(many_ones, many_ones)).ratio
    assert few is not None and many is not None
    assert many.high - many.low == pytest.approx(few.high - few.low)


def test_prompts_are_resampled_together_in_both_ways() -> None:
    """What a prompt does to both of them is no uncertainty of their ratio."""
    gains = np.array([[0.1], [5.0], [1.0], [0.2], [3.0], [0.5]])
    ratio = at_equal_cost([tilted(2 * gains, 1.0)], tilted(gains, 1.0)).ratio
    assert ratio is not None and ratio.low == pytest.approx(2.0) == ratio.high


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
    assert at_equal_cost([tilted(1.0, 1.0)], tilted(0.0, 1.0)).ratio is None
    assert at_equal_cost([tilted(1.0, 1.0)], tilted(-1.0, 1.0)).ratio is None


def test_resamples_without_a_gain_end_in_no_error() -> None:
    gain = np.array([[1.0], [0.0], [0.0]])
    ratio = at_equal_cost([Tilted(gain, gain)], Tilted(gain, gain)).ratio
    assert ratio is not None and ratio.value == pytest.approx(1.0) and ratio.low == 0.0
