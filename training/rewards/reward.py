"""What a reward is, how one is found, and the checks around its scores.

A recipe names a shipped reward by its id (`positivity`), or any other as `module:Class`, imported from where Python
finds modules and from the folder in which the command runs. Parameters, where a class takes some, become part of the
id, so that a checkpoint says all that is needed to score replies again:

    my_rewards:Questions {"per_sentence": true}

Runs in the training process, on the CPU and without a network. Must not import torch or vllm. The packages behind a
reward are imported when it is loaded, so that reading this costs nothing.
"""

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Protocol, cast

from training.errors import RewardError
from training.rewards.words import Positivity, Simplicity


class Reward(Protocol):
    """Scores replies; more is better. A reply's score depends on nothing but its prompt and itself."""

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One finite score a reply, in the reward's own units; `prompts` and `replies` are of equal length."""


REWARDS: Mapping[str, Callable[..., Reward]] = {"positivity": Positivity, "simplicity": Simplicity}
"""The rewards that ship, by id."""


def load_reward(identifier: str) -> Reward:
    """The reward of this id, ready to score.

    Raises:
        RewardError: there is no such reward, it does not take these parameters, or a package that it needs is missing.
    """
    reference, _, text = identifier.partition(" ")
    make = _find(reference)
    try:
        reward = make(**(json.loads(text) if text else {}))
    except ImportError as error:
        raise RewardError(f"reward {reference!r} needs a package that is not installed: {error}") from error
    except (TypeError, ValueError) as error:
        raise RewardError(f"reward {reference!r} cannot be made with parameters {text or '{}'}: {error}") from error
    if not callable(reward):
        raise RewardError(f"reward {reference!r}: got a {type(reward).__name__}, allowed is an object one can call")
    return reward


def reward_source(identifier: str) -> Path:
    """The file that holds a reward's code.

    Raises:
        RewardError: there is no such reward, or its code is not in a file.
    """
    reference = identifier.partition(" ")[0]
    try:
        return Path(inspect.getfile(cast(Any, _find(reference))))
    except TypeError:
        raise RewardError(f"reward {reference!r}: its code is not in a file, so a run could not be resumed") from None


def score(name: str, reward: Reward, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
    """`checked_scores` of a whole data set: they must not all be the same.

    Raises:
        RewardError: as there, or two and more replies all score the same.
    """
    scores = checked_scores(name, reward, prompts, replies)
    if len(scores) > 1 and min(scores) == max(scores):
        raise RewardError(f"reward {name!r} scored all {len(scores)} replies {scores[0]}; nothing to learn from")
    return scores


def checked_scores(name: str, reward: Reward, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
    """The reward's scores, checked.

    Args:
        name: what messages call it.

    Raises:
        RewardError: counts differ, or a score is not a finite number.
    """
    if len(prompts) != len(replies):
        raise RewardError(f"reward {name!r}: {len(prompts)} prompts but {len(replies)} replies; counts must agree")
    scores = reward(prompts, replies)
    if len(scores) != len(replies):
        raise RewardError(f"reward {name!r} returned {len(scores)} scores for {len(replies)} replies")
    for index, value in enumerate(scores):
        if not isinstance(value, (int, float)) or not isfinite(value):
            raise RewardError(f"reward {name!r} scored reply {index} {value!r}; allowed: finite numbers")
    return [float(value) for value in scores]


def _find(reference: str) -> Callable[..., Reward]:
    module, colon, attribute = reference.partition(":")
    if not colon:
        if reference not in REWARDS:
            allowed = f"{', '.join(sorted(REWARDS))}, or module:Class"
            raise RewardError(f"reward {reference!r} is unknown; allowed: {allowed}")
        return REWARDS[reference]
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # a console script's own path leads to where it is installed
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RewardError(f"reward {reference!r} cannot be imported: {error}") from error
    if not callable(found):
        raise RewardError(f"reward {reference!r}: got a {type(found).__name__}, allowed is a class")
    return cast(Callable[..., Reward], found)
