"""The paper's claim, exactly: a language small enough to enumerate, the real targets, the real guide.

A round evaluates its policy (targets with the price zeta of a nat) and improves it (the guide tilts by the values at
beta = 1 / zeta). No round lowers E[r] - zeta KL, and what no round changes any more is pi_ref exp(r / zeta) / Z.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.fit.targets import Leaf, tree_targets
from valuemodels.contract.guidance import ChoiceName, ResolvedGuidance, Scoring
from valuemodels.contract.policy import GuidancePolicy
from valuemodels.contract.value_config import ObjectiveConfig
from valuemodels.guide.value_guide import ValueGuide
from valuemodels.scoring.rows import Row
from valuemodels.scoring.scorer import ScoringBatch

Text = tuple[int, ...]


@dataclass(frozen=True)
class Language:
    """All texts of `length` tokens: the base's log-probabilities after each beginning, and each text's reward."""

    vocabulary: int
    length: int
    base: dict[Text, Tensor]
    reward: dict[Text, float]

    @classmethod
    def drawn(cls, vocabulary: int, length: int, seed: int) -> "Language":
        dice = torch.Generator().manual_seed(seed)
        begun = [text for tokens in range(length) for text in product(range(vocabulary), repeat=tokens)]
        base = {text: torch.randn(vocabulary, generator=dice).double().log_softmax(0) for text in begun}
        whole = product(range(vocabulary), repeat=length)
        return cls(vocabulary, length, base, {text: float(torch.randn((), generator=dice)) for text in whole})

    def logprob(self, policy: dict[Text, Tensor], text: Text) -> float:
        return sum(float(policy[text[:place]][token]) for place, token in enumerate(text))


def values_of(language: Language, policy: dict[Text, Tensor], zeta: float) -> dict[Text, float]:
    """What every beginning and every whole text is worth under a policy, from the targets that training computes.

    A tree's plain means are expectations where each child is as frequent as the policy has it. Instead of copies, each
    step of the tree is given to `tree_targets` by itself, one leaf at a time, and averaged by the policy.
    """
    values = dict(language.reward)
    for tokens in range(language.length - 1, -1, -1):
        for text in product(range(language.vocabulary), repeat=tokens):
            worth = 0.0
            for token in range(language.vocabulary):
                log_ratio = float(policy[text][token] - language.base[text][token])
                leaf = Leaf((1,), (1,), (log_ratio,))
                own = torch.tensor([[values[(*text, token)]]], dtype=torch.float64)
                after_prompt = float(tree_targets([leaf], own, zeta)[0].targets[0])
                worth += math.exp(float(policy[text][token])) * after_prompt
            values[text] = worth
    return values


class TableScorer:
    """The values of a table, by text; as levels (exact scoring) or as advantages (fast scoring)."""

    def __init__(self, table: dict[Text, float], gives_levels: bool) -> None:
        self.checkpoint_id = "table"
        objective = ObjectiveConfig(name="r", description="r", reward="r", mean=0.0, std=1.0, scale=1.0)
        self.objectives: tuple[ObjectiveConfig, ...] = (objective,)
        self.scales: tuple[float, ...] = (1.0,)
        self.gives_levels = gives_levels
        self._table = table

    def score(self, batch: ScoringBatch) -> Tensor:
        rows = [
            [self._table[(*row.output, token)] - (0.0 if self.gives_levels else self._table[tuple(row.output)])
             for token in ids]
            for row, ids in zip(batch.rows, batch.candidates.token_ids.tolist(), strict=True)
        ]  # fmt: skip
        return torch.tensor(rows)[..., None]


def improved(language: Language, values: dict[Text, float], zeta: float, scoring: Scoring) -> dict[Text, Tensor]:
    """The policy that the guide makes of the base by these values at beta = 1 / zeta."""
    policy = GuidancePolicy(objectives=("r",), scorings=(scoring,), default_scoring=scoring)
    guide = ValueGuide({scoring: [TableScorer(values, scoring == "exact")]}, policy, torch.device("cpu"), max_traces=1)
    texts = list(language.base)
    asked = ResolvedGuidance(
        weights=(1.0,),
        beta=1 / zeta,
        candidates=language.vocabulary,
        kl_budget=None,
        scoring=scoring,
        trace="totals",
        strengths=(1 / zeta,),
        pins=(0.0,),
    )
    rows = [Row(n, str(n), str(n), ChoiceName(0, 0), asked, 1.0, [0], list(text)) for n, text in enumerate(texts)]
    logits = torch.stack([language.base[text] for text in texts]).float()
    tilted = guide.step(logits, rows, None if scoring == "exact" else torch.zeros(len(rows), 1))
    return dict(zip(texts, tilted.double().log_softmax(-1), strict=True))


def worth_of(language: Language, policy: dict[Text, Tensor], zeta: float) -> float:
    """E[r] - zeta KL(policy || base), over whole texts."""
    return sum(
        math.exp(language.logprob(policy, text))
        * (reward - zeta * (language.logprob(policy, text) - language.logprob(language.base, text)))
        for text, reward in language.reward.items()
    )


def optimum(language: Language, zeta: float) -> dict[Text, float]:
    """Log-probabilities of pi_ref exp(r / zeta) / Z, over whole texts."""
    scores = {t: language.logprob(language.base, t) + reward / zeta for t, reward in language.reward.items()}
    normaliser = float(torch.tensor(list(scores.values()), dtype=torch.float64).logsumexp(0))
    return {text: score - normaliser for text, score in scores.items()}


def iterated(
    language: Language, zeta: float, scoring: Scoring, rounds: int, seen: Callable[[float], None]
) -> dict[Text, Tensor]:
    policy = language.base
    seen(worth_of(language, policy, zeta))
    for _ in range(rounds):
        policy = improved(language, values_of(language, policy, zeta), zeta, scoring)
        seen(worth_of(language, policy, zeta))
    return policy


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
