"""One line a slider: whether its reward follows its weight, what it buys at a given cost, what other rewards say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluate.slider_table import SliderSetting
from training.rollouts.scored import Scored
from training.statistics.bootstrap import Estimate
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
    """

    objective: str
    follows: Mapping[str, Estimate]
    gain: Estimate | None


def slider_summaries(
    settings: Sequence[SliderSetting], scored: Sequence[Scored], base_std: Mapping[str, float]
) -> list[SliderSummary]:
    """One for each objective that was tried at two weights and more, 0 counted.

    Args:
        settings, scored: the base first, as `slider_settings` has them.
        base_std: objective -> standard deviation of the base's reward.
    """
    found = []
    for name in base_std:
        alone = [
            (setting.weights.get(name, 0.0), of_setting)
            for setting, of_setting in zip(settings, scored, strict=True)
            if setting.is_base or set(setting.weights) == {name}
        ]
        if len(alone) > 1:
            found.append(_summary(name, alone, scored[0], base_std[name]))
    return found


def _summary(name: str, alone: Sequence[tuple[float, Scored]], base: Scored, std: float) -> SliderSummary:
    weights = [weight for weight, _ in alone]
    follows = {
        reward: spearman_estimate(weights, np.stack([scored.rewards[reward].mean(axis=1) for _, scored in alone]))
        for reward in base.rewards
    }
    ways = [
        Tilted((scored.rewards[name] - base.rewards[name]) / std, scored.kl_nats)
        for weight, scored in alone
        if weight > 0
    ]
    return SliderSummary(name, follows, _gain_at_nats(ways) if ways else None)


def _gain_at_nats(ways: Sequence[Tilted]) -> Estimate:
    """Read off between the strengths that were tried, linearly in the root of the KL."""
    shape = ways[0].kl_nats.shape
    reference = Tilted(np.ones(shape), np.full(shape, NATS))
    return at_equal_cost(ways, reference).gain
