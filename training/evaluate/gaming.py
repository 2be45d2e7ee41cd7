"""The replies that a reward likes best under its strongest tilt: where a reward can be gamed, they show how.

No torch, no vllm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.markup import escape

from training.evaluate.slider_table import SliderSetting
from training.rollouts.scored import Scored
from training.runs.progress import console


@dataclass(frozen=True, slots=True)
class BestReply:
    """A reply, and its `reward` in the objective's own units, under the setting that tilts furthest towards it."""

    objective: str
    setting: str
    reward: float
    prompt: str
    reply: str


def best_replies(
    settings: Sequence[SliderSetting],
    scored: Sequence[Scored],
    texts: Mapping[str, str],
    objectives: Sequence[str],
    count: int,
) -> list[BestReply]:
    """Of each objective the `count` best replies, best first, under the largest weight that it has alone.

    Args:
        texts: prompt id -> the prompt.
    """
    found = []
    for objective in objectives:
        tilted = [
            (setting.weights[objective], setting, replies)
            for setting, replies in zip(settings, scored, strict=True)
            if setting.weights.get(objective, 0) > 0 and sum(map(bool, setting.weights.values())) == 1
        ]
        if not tilted:
            continue
        _, setting, strongest = max(tilted, key=lambda each: each[0])
        rewards = strongest.rewards[objective].flatten()
        for place in np.argsort(-rewards, kind="stable")[:count]:
            rollout, reward = strongest.replies[place], float(rewards[place])
            found.append(BestReply(objective, str(setting), reward, texts[rollout.prompt_id], rollout.text))
    return found


def print_best(replies: Sequence[BestReply]) -> None:
    """Print them one by one, for a human to judge."""
    for objective in dict.fromkeys(each.objective for each in replies):
        own = [each for each in replies if each.objective == objective]
        console.print(f"\n[bold]best by {objective}, at {own[0].setting}[/bold]: are they what you want?")
        for each in own:
            console.print(f"  {each.reward:.3f}  {escape(repr(each.prompt))}", soft_wrap=True)
            console.print(f"         {escape(repr(each.reply))}", soft_wrap=True)
