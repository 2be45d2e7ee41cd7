"""What methods are worth beside each other, from figures made up for it."""

import numpy as np
import pytest

from training.front.figures import Answers, GroupFigures, group_figures
from training.front.mixes import mixes_of
from training.rollouts.measured import Measured

GROUP = mixes_of(("a", "b"), 1)
STDS = {"a": 2.0, "b": 2.0}
PROMPTS = 200


def replies(gain: float, kl_nats: float = 0.0, perplexity: float = 9.0, samples: int = 1, seed: int = 0) -> Measured:
    """So many standard deviations above the base in both objectives, with noise of one."""
    dice, shape = np.random.default_rng(seed), (PROMPTS, samples)
    return Measured(
        rewards={name: 5.0 + STDS[name] * (gain + dice.normal(size=shape)) for name in STDS},
        kl_nats=np.full(shape, kl_nats),
        base_logprobs=np.full(shape, -10 * np.log(perplexity)),
        tokens=np.full(shape, 10.0),
        texts=["so it is"] * PROMPTS * samples,
        tokens_per_s=0.0,
    )


def answers(name: str, found: Measured, is_ours: bool = False) -> Answers:
    return Answers(name, 1.0, [found] * len(GROUP.mixes), is_ours)


def figures_of(*others: Answers, drawn: int = 64) -> GroupFigures:
    base = replies(0.0, samples=drawn, seed=1)
    shown = base.chosen(np.zeros((PROMPTS, 1), dtype=np.int64), 0.0, 0.0)
    return group_figures(GROUP, [answers("base", shown), *others], base, STDS)


def test_of_the_tilts_that_cost_no_more_the_best_is_set_against_a_method() -> None:
    tilts = [
        answers("dear", replies(2.0, kl_nats=9.0, perplexity=7.0, seed=2), True),
        answers("odd", replies(1.5, kl_nats=3.0, perplexity=12.0, seed=3), True),
        answers("gentle", replies(0.5, kl_nats=3.0, perplexity=7.0, seed=4), True),
        answers("fair", replies(1.0, kl_nats=4.0, perplexity=8.0, seed=5), True),
    ]
    rival = answers("rival", replies(0.4, kl_nats=4.0, perplexity=8.0, seed=6))
    cheap = answers("cheap", replies(0.1, kl_nats=1.0, perplexity=8.0, seed=7))
    found = {each.method: each for each in figures_of(*tilts, rival, cheap).methods}
    matched = found["rival"].matched
    assert matched is not None and matched.method == "fair"
    assert matched.mip_ahead.value == pytest.approx(found["fair"].mip.value - found["rival"].mip.value)
    assert matched.hypervolume_ahead.low < matched.hypervolume_ahead.value < matched.hypervolume_ahead.high
    assert [found[name].matched for name in ("cheap", "base", *(each.method for each in tilts))] == [None] * 6


def test_gains_are_told_from_all_that_was_drawn_from_the_base() -> None:
    """Would catch the base's own chance, of one reply a prompt, in every method's interval."""
    tilted = answers("tilted", replies(1.0, seed=2), True)
    many, one = (figures_of(tilted, drawn=drawn).methods[1].mip for drawn in (64, 1))
    assert many.high - many.low < 0.85 * (one.high - one.low)
    assert many.low < 1.0 < many.high
