"""Several rewards as one: a weighted sum of parts, each clipped first where that is wanted."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from training.errors import RewardError
from training.recipe import reward_id
from training.rewards.reward import Reward, checked_scores, load_reward, reward_files, reward_source

_KEYS = {"reward", "parameters", "weight", "clip"}


class Combined:
    """sum_i weight_i * clip(reward_i, low_i, high_i), in the parts' own units."""

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """
        Args:
            parts: each with the `reward`'s id, its `parameters`, a `weight` (1) and a `clip` of [low, high] (none).

        Raises:
            RewardError: a part is none, or its reward cannot be had.
        """
        if not isinstance(parts, Sequence) or not parts:
            raise RewardError(f"reward combined: parts: got {parts!r}, allowed is a list of one part or more")
        self._parts = [_Part(number, part) for number, part in enumerate(parts)]

    @staticmethod
    def depends_on(parameters: Mapping[str, Any]) -> list[Path]:
        """The parts' code and what they depend on."""
        parts = [reward_id(part["reward"], part.get("parameters", {})) for part in parameters["parts"]]
        return [path for part in parts for path in (reward_source(part), *reward_files(part))]

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """Scores of the sum."""
        columns = [part(prompts, replies) for part in self._parts]
        return [sum(row) for row in zip(*columns, strict=True)]


class _Part:
    def __init__(self, number: int, part: Mapping[str, Any]) -> None:
        self._name = f"combined.parts[{number}]"
        if not isinstance(part, Mapping) or "reward" not in part or set(part) - _KEYS:
            raise RewardError(f"reward {self._name}: got {part!r}, allowed are {', '.join(sorted(_KEYS))}")
        self._weight = self._number("weight", part.get("weight", 1.0))
        low, high = self._limits(part.get("clip"))
        self._low, self._high = low, high
        self._reward: Reward = load_reward(reward_id(part["reward"], part.get("parameters", {})))

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        scores = checked_scores(self._name, self._reward, prompts, replies)
        return [self._weight * min(max(score, self._low), self._high) for score in scores]

    def _limits(self, clip: Any) -> tuple[float, float]:
        if clip is None:
            return float("-inf"), float("inf")
        if not isinstance(clip, Sequence) or len(clip) != 2:
            raise RewardError(f"reward {self._name}.clip: got {clip!r}, allowed are two numbers, the lower one first")
        low, high = (self._number("clip", number) for number in clip)
        if low >= high:
            raise RewardError(f"reward {self._name}.clip: got {clip!r}, allowed are two numbers, the lower one first")
        return low, high

    def _number(self, field: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
            raise RewardError(f"reward {self._name}.{field}: got {value!r}, allowed are finite numbers")
        return float(value)
