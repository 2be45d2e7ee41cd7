"""The best policies on distributions small enough to enumerate, and tilts whose distance from them is known."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.evaluate.best_policy import ETAS, Frontier, Nearness, nearness

REPLIES = np.array([0.0, 1.0, 2.0, 4.0])
"""Rewards of the four replies that there are."""


def exact(probabilities: NDArray[Any], eta: float) -> tuple[NDArray[Any], float]:
    """The best policy over the four replies, and its KL from the base."""
    policy = probabilities * np.exp(eta * REPLIES)
    policy /= policy.sum()
    return policy, float((policy * np.log(policy / probabilities)).sum())


def drawn(policy: NDArray[Any], shape: tuple[int, int], seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed).choice(4, size=shape, p=policy)


BASE = np.array([0.4, 0.3, 0.2, 0.1])
SHAPE = (40, 400)


def near(policy: NDArray[Any]) -> Nearness:
    base = REPLIES[drawn(BASE, SHAPE, 0)]
    own = drawn(policy, SHAPE, 1)
    return nearness(base, REPLIES[own], np.log(policy / BASE)[own])


@pytest.mark.parametrize("eta", [0.1, 0.3, 0.6])
def test_the_best_policy_itself_gains_all_there_is_and_is_no_nats_away(eta: float) -> None:
    policy, kl = exact(BASE, eta)
    found = near(policy)
    assert found.kl_nats.low <= kl <= found.kl_nats.high
    assert found.share.value == pytest.approx(1.0, abs=0.05) and found.gap_nats.value == pytest.approx(0.0, abs=0.02)


def test_a_policy_that_moves_elsewhere_gains_less_and_is_as_far_as_can_be_computed() -> None:
    policy = np.array([0.15, 0.55, 0.2, 0.1])
    found = near(policy)
    away = min(float((policy * np.log(policy / exact(BASE, eta)[0])).sum()) for eta in ETAS)
    assert found.share.high < 0.6
    assert found.gap_nats.value == pytest.approx(away, abs=0.03)


def test_what_asks_for_less_of_a_reward_is_the_mirror_of_what_asks_for_more() -> None:
    policy, _ = exact(BASE, -0.4)
    base, own = REPLIES[drawn(BASE, SHAPE, 0)], drawn(policy, SHAPE, 1)
    found = nearness(-base, -REPLIES[own], np.log(policy / BASE)[own])
    assert found.gain.value > 0 and found.share.value == pytest.approx(1.0, abs=0.05)


def test_the_base_gains_nothing_and_nothing_can_be_said_of_a_share() -> None:
    base = REPLIES[drawn(BASE, SHAPE, 0)]
    found = nearness(base, base, np.zeros(SHAPE))
    assert found.gain.value == 0 == found.best.value and np.isnan(found.share.value)
    assert found.gap_nats.value == 0
    assert found.effective == pytest.approx(SHAPE[1])


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20))
def test_a_stronger_best_policy_goes_further_and_gains_more(rewards: list[float]) -> None:
    frontier = Frontier.of(np.array([rewards]))
    for figures in (frontier.kl_nats, frontier.gains):
        assert (np.diff(figures[0]) >= -1e-9).all()
    assert frontier.kl_nats.max() <= np.log(len(rewards)) + 1e-9, "no further than to one of the replies"
    assert (frontier.effective >= 1 - 1e-9).all() and (frontier.effective <= len(rewards) + 1e-9).all()
