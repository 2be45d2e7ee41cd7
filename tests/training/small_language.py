"""A language small enough to enumerate, and iterating on it with the real targets and the real guide.

    python -m tests.training.small_language FILE.png

draws what `docs/train.md` shows: the worth of the policy after every round.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
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


def draw(path: Path) -> None:
    """The worth after every round, of one language: with and without a price on what is still to come."""
    from matplotlib.figure import Figure

    language, zeta, rounds = Language.drawn(4, 5, 1), 0.3, 6
    exact, fast = list[float](), list[float]()
    iterated(language, zeta, "exact", rounds, exact.append)
    iterated(language, zeta, "fast", rounds, fast.append)
    unpriced, policy = [worth_of(language, language.base, zeta)], language.base
    for _ in range(rounds):
        policy = improved(language, values_of(language, policy, 0.0), zeta, "exact")
        unpriced.append(worth_of(language, policy, zeta))
    # At the optimum, E[r] - zeta KL is zeta log Z.
    text, logprob = next(iter(optimum(language, zeta).items()))
    attained = language.reward[text] - zeta * (logprob - language.logprob(language.base, text))
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(attained, color="black", linewidth=0.8, linestyle=":")
    axes.annotate("base * exp(r / zeta) / Z, over whole texts", (rounds, attained), ha="right", va="bottom")
    axes.plot(exact, marker="o", label="exact values")
    axes.plot(fast, marker="x", label="advantages, as fast scoring has")
    axes.plot(unpriced, marker="s", linestyle="--", label="exact values, but nats still to come cost nothing")
    axes.set_xlabel("rounds")
    axes.set_ylabel("E[r] - zeta KL")
    axes.margins(y=0.1)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
