"""The paper's claim, exactly: a language small enough to enumerate, the real targets, the real guide.

A round evaluates its policy (targets with the price zeta of a nat) and improves it (the guide tilts by the values at
beta = 1 / zeta). No round lowers E[r] - zeta KL, and what no round changes any more is pi_ref exp(r / zeta) / Z.
"""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.small_language import Language, improved, iterated, optimum, values_of, worth_of
from valuemodels.contract.guidance import Scoring


@pytest.mark.parametrize("scoring", ["exact", "fast"])
@given(st.integers(2, 4), st.integers(1, 4), st.sampled_from([0.2, 0.5, 1.0, 3.0]), st.integers(0, 10**6))
@settings(max_examples=12, deadline=None)
def test_no_round_lowers_the_worth_and_the_limit_is_the_optimum_over_whole_texts(
    scoring: Scoring, vocabulary: int, length: int, zeta: float, seed: int
) -> None:
    language = Language.drawn(vocabulary, length, seed)
    worths: list[float] = []
    # Evaluated from the end, a policy is right one token further with every round.
    policy = iterated(language, zeta, scoring, length + 1, worths.append)
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(worths)), worths
    assert worths[-1] == pytest.approx(worths[-2], abs=1e-6), "it stands still"
    best = optimum(language, zeta)
    for text, expected in best.items():
        assert math.exp(language.logprob(policy, text)) == pytest.approx(math.exp(expected), abs=1e-5)
    shares = {text: math.exp(logprob) for text, logprob in best.items()}
    attained = sum(
        share * (language.reward[text] - zeta * (best[text] - language.logprob(language.base, text)))
        for text, share in shares.items()
    )
    assert worths[-1] == pytest.approx(attained, abs=1e-5)


def test_one_round_alone_does_not_reach_the_optimum() -> None:
    """Would catch a test whose language leaves nothing to iterate for."""
    language, zeta = Language.drawn(4, 4, 1), 0.3
    worths: list[float] = []
    iterated(language, zeta, "exact", 5, worths.append)
    assert worths[1] - worths[0] > 0.1 and worths[2] - worths[1] > 0.01


def test_charging_nothing_for_what_is_to_come_misses_the_optimum() -> None:
    """Why the targets need zeta: reward alone, iterated at the same beta, ends below."""
    language, zeta = Language.drawn(4, 3, 2), 0.3
    policy = language.base
    for _ in range(6):
        policy = improved(language, values_of(language, policy, 0.0), zeta, "exact")
    worths: list[float] = []
    iterated(language, zeta, "exact", 4, worths.append)
    assert worth_of(language, policy, zeta) < worths[-1] - 0.01
