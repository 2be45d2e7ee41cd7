"""One line a slider: whether its reward follows its weight, what it buys at a given cost, what other rewards say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluate.slider_table import SliderSetting
from training.rollouts.scored import Scored
from training.statistics.bootstrap import Estimate, mean_estimate
from training.statistics.equal_kl import Tilted, at_equal_cost
from training.statistics.monotone import spearman_estimate

NATS = 5.0
"""A reply: what the sliders' gains are compared at."""


@dataclass(frozen=True, slots=True)
class SliderSummary:
    """What one objective's weight did, alone, over all weights that were tried.

    Attributes:
        follows: Spearman's rank correlation of weight and mean reward, for the objective's own reward and for every
            other that was measured.
        gain: of its own reward at `NATS` nats a reply, in standard deviations of the base's reward; None where no
            weight above 0 was tried.
        effects: of its largest weight on every reward that was measured, in standard deviations of the base's.
    """

    objective: str
    follows: Mapping[str, Estimate]
    gain: Estimate | None
    effects: Mapping[str, Estimate]


def slider_summaries(
    settings: Sequence[SliderSetting], scored: Sequence[Scored], objectives: Sequence[str], stds: Mapping[str, float]
) -> list[SliderSummary]:
    """One for each objective that was tried at two weights and more, 0 counted.

    Args:
        settings, scored: the base first, as `slider_settings` has them.
        stds: of the base's rewards, of all that were measured.
    """
    found = []
    for name in objectives:
        alone = [
            (setting.weights.get(name, 0.0), of_setting)
            for setting, of_setting in zip(settings, scored, strict=True)
            if setting.is_base or set(setting.weights) == {name}
        ]
        if len(alone) > 1:
            found.append(_summary(name, alone, scored[0], stds))
    return found


def _summary(
    name: str, alone: Sequence[tuple[float, Scored]], base: Scored, stds: Mapping[str, float]
) -> SliderSummary:
    weights = [weight for weight, _ in alone]
    follows = {
        reward: spearman_estimate(weights, np.stack([scored.rewards[reward].mean(axis=1) for _, scored in alone]))
        for reward in base.rewards
    }
    ways = [
        Tilted((scored.rewards[name] - base.rewards[name]) / stds[name], scored.kl_nats)
        for weight, scored in alone
        if weight > 0
    ]
    _, furthest = max(alone, key=lambda each: each[0])
    effects = {
        reward: mean_estimate((furthest.rewards[reward] - of_base) / stds[reward])
        for reward, of_base in base.rewards.items()
    }
    return SliderSummary(name, follows, _gain_at_nats(ways) if ways else None, effects)


def _gain_at_nats(ways: Sequence[Tilted]) -> Estimate:
    """Read off between the strengths that were tried, linearly in the root of the KL."""
    shape = ways[0].kl_nats.shape
    reference = Tilted(np.ones(shape), np.full(shape, NATS))
    return at_equal_cost(ways, reference).gain
