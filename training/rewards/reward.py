"""What a reward is, how one is found, and the checks around its scores.

A recipe names a shipped reward by its id (`positivity`), or any other as `module:Class` or `module:function`, imported
from where Python finds modules and from the folder in which the command runs. Parameters, where it takes some, become
part of the id, so that a checkpoint says all that is needed to score replies again:

    my_rewards:Questions {"per_sentence": true}

Runs in the training process. Must not import torch or vllm. The packages behind a reward are imported when it is
loaded, so that reading this costs nothing.
"""

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Protocol, cast

from training.errors import RewardError


class Reward(Protocol):
    """Scores replies; more is better. A reply's score depends on nothing but its prompt and itself."""

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One finite score a reply, in the reward's own units; `prompts` and `replies` are of equal length."""


REWARDS: Mapping[str, str] = {
    "positivity": "training.rewards.words:Positivity",
    "simplicity": "training.rewards.words:Simplicity",
    "conciseness": "training.rewards.form:Conciseness",
    "curiosity": "training.rewards.form:Curiosity",
    "helpfulness": "training.rewards.meaning:Helpfulness",
    "harmlessness": "training.rewards.harm:Harmlessness",
    "classifier": "training.rewards.classifier:Classifier",
    "endpoint": "training.rewards.endpoint:Endpoint",
    "judge": "training.rewards.judge:Judge",
    "combined": "training.rewards.combined:Combined",
}
"""The rewards that ship: where each id is found."""


def load_reward(identifier: str) -> Reward:
    """The reward of this id, ready to score.

    Raises:
        RewardError: there is no such reward, it does not take these parameters, or a package that it needs is missing.
    """
    reference, parameters = _parts_of(identifier)
    found = _find(reference)
    try:
        if not inspect.isclass(found):
            inspect.signature(found).bind((), (), **parameters)
        reward = found(**parameters) if inspect.isclass(found) else partial(found, **parameters)
    except ImportError as error:
        raise RewardError(f"reward {reference!r} needs a package that is not installed: {error}") from error
    except (TypeError, ValueError) as error:
        given = json.dumps(parameters, sort_keys=True)
        raise RewardError(f"reward {reference!r} cannot be made with parameters {given}: {error}") from error
    if not callable(reward):
        raise RewardError(f"reward {reference!r}: got a {type(reward).__name__}, allowed is an object one can call")
    return cast(Reward, reward)


def check_reward(identifier: str) -> Path:
    """Look whether a reward is there and takes its parameters; nothing is loaded or fetched for it.

    Returns:
        the file that holds its code.

    Raises:
        RewardError: there is no such reward, or it does not take these parameters.
    """
    reference, parameters = _parts_of(identifier)
    found = _find(reference)
    try:
        inspect.signature(found).bind(*(() if inspect.isclass(found) else ((), ())), **parameters)
    except TypeError as error:
        given = json.dumps(parameters, sort_keys=True)
        raise RewardError(f"reward {reference!r} cannot be made with parameters {given}: {error}") from error
    return reward_source(identifier)


def reward_files(identifier: str) -> list[Path]:
    """Files and folders, beside its code, that a reward's scores depend on: runs made from others must not be mixed.

    A class names its own by a static method `depends_on`, from its parameters to paths.

    Raises:
        RewardError: there is no such reward, or a parameter of it is missing.
    """
    reference, parameters = _parts_of(identifier)
    depends_on = getattr(_find(reference), "depends_on", None)
    try:
        return [] if depends_on is None else depends_on(parameters)
    except KeyError as error:
        raise RewardError(f"reward {reference!r}: parameter {error} is missing") from None
    except (TypeError, AttributeError) as error:
        given = json.dumps(parameters, sort_keys=True)
        raise RewardError(f"reward {reference!r} cannot be made with parameters {given}: {error}") from None


def reward_source(identifier: str) -> Path:
    """The file that holds a reward's code.

    Raises:
        RewardError: there is no such reward, or its code is not in a file.
    """
    reference, _ = _parts_of(identifier)
    try:
        return Path(inspect.getfile(_find(reference)))
    except TypeError:
        raise RewardError(f"reward {reference!r}: its code is not in a file, so a run could not be resumed") from None


def refuse_constant(name: str, scores: Sequence[float]) -> None:
    """
    Raises:
        RewardError: two and more replies all score the same.
    """
    if len(scores) > 1 and min(scores) == max(scores):
        raise RewardError(f"reward {name!r} scored all {len(scores)} replies {scores[0]}; nothing to learn from")


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


def _parts_of(identifier: str) -> tuple[str, dict[str, Any]]:
    """Reference and parameters of an id."""
    reference, _, text = identifier.partition(" ")
    try:
        parameters = json.loads(text) if text else {}
        if not isinstance(parameters, dict):
            raise ValueError("they are no JSON object")
    except ValueError as error:
        raise RewardError(f"reward {reference!r} cannot be made with parameters {text}: {error}") from None
    return reference, parameters


def _find(reference: str) -> Callable[..., Any]:
    module, colon, attribute = REWARDS.get(reference, reference).partition(":")
    if not colon:
        allowed = f"{', '.join(sorted(REWARDS))}, module:Class and module:function"
        raise RewardError(f"reward {reference!r} is unknown; allowed: {allowed}")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # a console script's own path leads to where it is installed
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RewardError(f"reward {reference!r} cannot be imported: {error}") from error
    if not callable(found):
        raise RewardError(f"reward {reference!r}: got a {type(found).__name__}, allowed is a class or a function")
    return cast(Callable[..., Any], found)
