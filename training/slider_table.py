"""What each slider does: settings of the weights, and the figures of the replies they gave. No torch, no vllm."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from training.bootstrap import Estimate, mean_estimate
from training.rollout import Reply

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Setting:
    """Weights that all replies of one row of the table were sampled with."""

    weights: Mapping[str, float]

    @property
    def is_base(self) -> bool:
        return not any(self.weights.values())

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
class Row:
    """One setting's figures.

    Attributes:
        kl_nats: a reply.
        distinct_2: distinct pairs of neighbouring words among all such pairs in the setting's replies.
        tokens: a reply.
    """

    setting: Setting
    objectives: Mapping[str, ObjectiveFigures]
    kl_nats: Estimate
    distinct_2: float
    tokens: float


def slider_settings(objectives: Sequence[str], weights: Sequence[float], joint: float = 0.5) -> list[Setting]:
    """The base, each objective alone at each weight, and all together at `joint` where there are several."""
    alone = [Setting({name: weight}) for name in objectives for weight in weights if weight]
    together = [Setting(dict.fromkeys(objectives, joint))] if len(objectives) > 1 else []
    return [Setting({}), *alone, *together]


def table_row(
    setting: Setting,
    replies: Sequence[Reply],
    rewards: Mapping[str, NDArray[np.float64]],
    base_rewards: Mapping[str, NDArray[np.float64]],
    base_std: Mapping[str, float],
) -> Row:
    """Measure one setting.

    Args:
        replies: prompt by prompt, all samples of a prompt together.
        rewards, base_rewards: objective -> [prompts, samples], of this setting's and of the base's replies.
        base_std: objective -> standard deviation of the base's reward, as the checkpoint has it.
    """
    return Row(
        setting=setting,
        objectives={
            name: ObjectiveFigures(
                reward=mean_estimate(measured),
                shift=mean_estimate((measured - base_rewards[name]) / base_std[name]),
            )
            for name, measured in rewards.items()
        },
        kl_nats=mean_estimate(np.reshape([reply.kl_nats for reply in replies], next(iter(rewards.values())).shape)),
        distinct_2=distinct_share([reply.text for reply in replies], 2),
        tokens=float(np.mean([len(reply.token_ids) for reply in replies])),
    )


def distinct_share(texts: Sequence[str], size: int) -> float:
    """Distinct runs of `size` words among all such runs in the texts; 0 where there are none."""
    runs = [run for text in texts for run in _runs(_WORD.findall(text.lower()), size)]
    return len(set(runs)) / len(runs) if runs else 0.0


def monotone_failures(rows: Sequence[Row]) -> list[str]:
    """Where an objective's mean reward does not rise from one weight to the next, in words."""
    failures = []
    for name in rows[0].objectives:
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
