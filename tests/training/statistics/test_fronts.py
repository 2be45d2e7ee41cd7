"""What a set of compromises is worth: known volumes, and the draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.statistics.fronts import REFERENCE, hypervolume, mean_inner_product, of_each, resampled_means


def test_a_known_front_has_its_volume() -> None:
    """A version that is public sweeps the wrong way here, and finds 3."""
    front = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    assert hypervolume(front + REFERENCE) == pytest.approx(6.0)
    assert hypervolume(np.array([[1.0, 2.0, 3.0]]) + REFERENCE) == pytest.approx(6.0)


def test_what_is_dominated_or_below_the_reference_adds_nothing() -> None:
    front = np.array([[1.0, 3.0], [3.0, 1.0]]) + REFERENCE
    more = np.concatenate([front, [[REFERENCE + 0.5, REFERENCE + 0.5], [9.0, REFERENCE - 1], [9.0, REFERENCE]]])
    assert hypervolume(more) == pytest.approx(hypervolume(front)) == pytest.approx(5.0)
    assert hypervolume(np.array([[9.0, REFERENCE - 0.1]])) == 0.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 3))
def test_volume_grows_with_any_point_and_any_objective(seed: int, objectives: int) -> None:
    chance = np.random.default_rng(seed)
    points = chance.normal(size=(5, objectives))
    assert hypervolume(points) <= hypervolume(points + chance.random((5, objectives))) + 1e-9
    assert hypervolume(points[:4]) <= hypervolume(points) + 1e-9


def test_the_product_is_of_each_mix_with_its_own_rewards() -> None:
    shares = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    points = np.array([[2.0, 9.0], [1.0, 3.0], [9.0, 4.0]])
    assert mean_inner_product(points, shares) == pytest.approx((2 + 2 + 4) / 3)


def test_draws_are_of_prompts_and_the_same_for_all() -> None:
    chance = np.random.default_rng(0)
    figures = chance.normal(size=(3, 20, 2))
    means = resampled_means(figures)
    assert means[0] == pytest.approx(figures.mean(axis=1))
    assert resampled_means(figures + 1) == pytest.approx(means + 1)
    spread = means[1:, 0, 0].std()
    assert spread == pytest.approx(figures[0, :, 0].std() / 20**0.5, rel=0.15)
    volumes, products = of_each(means, np.full((3, 2), 0.5))
    assert volumes[7] == hypervolume(means[7]) and products[7] == pytest.approx(means[7].mean())
