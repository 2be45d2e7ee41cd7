"""What each slider does: settings of the weights, and the figures of the replies they gave. No torch, no vllm."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from training.rollouts.scored import Scored
from training.statistics.bootstrap import Estimate, mean_estimate

_WORD = re.compile(r"\w+")


JOINT_WEIGHT = 0.5
"""Of each objective, where all are weighed together."""


@dataclass(frozen=True, slots=True)
class SliderSetting:
    """Weights that all replies of one row of the table were sampled with."""

    weights: Mapping[str, float]

    @property
    def is_base(self) -> bool:
        return not any(self.weights.values())

    @property
    def folder_name(self) -> str:
        """A name for the folder of its replies."""
        return "_".join(f"{name}{weight:+g}" for name, weight in self.weights.items() if weight) or "base"

    def __str__(self) -> str:
        return ", ".join(f"{name} {weight:+g}" for name, weight in self.weights.items() if weight) or "base"


@dataclass(frozen=True, slots=True)
class ObjectiveFigures:
    """One objective's measured reward in one setting.

    Attributes:
        reward: in the reward's own units.
        shift: against the base's replies to the same prompts at the same seeds, in standard deviations of the base's
            reward.
    """

    reward: Estimate
    shift: Estimate


@dataclass(frozen=True, slots=True)
class SliderRow:
    """One setting's figures.

    Attributes:
        kl_nats: a reply.
        distinct_2: distinct pairs of neighbouring words among all such pairs in the setting's replies.
        tokens: a reply.
    """

    setting: SliderSetting
    objectives: Mapping[str, ObjectiveFigures]
    kl_nats: Estimate
    distinct_2: float
    tokens: float


def slider_settings(objectives: Sequence[str], weights: Sequence[float]) -> list[SliderSetting]:
    """The base, and `settings_at` the weights."""
    return [SliderSetting({}), *settings_at(objectives, weights, JOINT_WEIGHT)]


def settings_at(objectives: Sequence[str], weights: Sequence[float], joint: float) -> list[SliderSetting]:
    """Each objective alone at each weight but 0, and all together at `joint` where there are several."""
    alone = [SliderSetting({name: weight}) for name in objectives for weight in weights if weight]
    together = [SliderSetting(dict.fromkeys(objectives, joint))] if len(objectives) > 1 else []
    return [*alone, *together]


def slider_rows(
    settings: Sequence[SliderSetting], scored: Sequence[Scored], base_std: Mapping[str, float]
) -> list[SliderRow]:
    """Measure every setting; the base comes first."""
    pairs = zip(settings, scored, strict=True)
    return [slider_row(setting, of_setting, scored[0], base_std) for setting, of_setting in pairs]


def slider_row(setting: SliderSetting, scored: Scored, base: Scored, base_std: Mapping[str, float]) -> SliderRow:
    """Measure one setting.

    Args:
        base: the base's replies to the same prompts at the same seeds.
        base_std: objective -> standard deviation of the base's reward, as the checkpoint has it.
    """
    return SliderRow(
        setting=setting,
        objectives={
            name: ObjectiveFigures(
                reward=mean_estimate(measured),
                shift=mean_estimate((measured - base.rewards[name]) / base_std[name]),
            )
            for name, measured in scored.rewards.items()
        },
        kl_nats=mean_estimate(scored.kl_nats),
        distinct_2=distinct_share([reply.text for reply in scored.replies], 2),
        tokens=float(np.mean([len(reply.output_token_ids) for reply in scored.replies])),
    )


def distinct_share(texts: Sequence[str], size: int) -> float:
    """Distinct runs of `size` words among all such runs in the texts; 0 where there are none."""
    runs = [run for text in texts for run in _runs(_WORD.findall(text.lower()), size)]
    return len(set(runs)) / len(runs) if runs else 0.0


def monotone_failures(rows: Sequence[SliderRow], names: Sequence[str]) -> list[str]:
    """Where an objective's mean reward does not rise from one weight to the next, in words."""
    failures = []
    for name in names:
        steps = sorted(
            (row.setting.weights.get(name, 0.0), row.objectives[name].reward.value)
            for row in rows
            if row.setting.is_base or set(row.setting.weights) == {name}
        )
        failures += [
            f"{name} falls from {before[1]:.3f} at {before[0]:+g} to {after[1]:.3f} at {after[0]:+g}"
            for before, after in pairwise(steps)
            if after[1] <= before[1]
        ]
    return failures


def _runs(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
