"""Generations that have ended, kept for those who ask for them afterwards: for a bounded time, bounded in size.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

KEPT_S = 300.0
MAX_GENERATIONS = 1024
MAX_WEIGHT = 200_000
"""Tokens and candidates of all that are kept: a candidate takes a few hundred bytes."""

T = TypeVar("T")


class EndedGenerations(Generic[T]):
    """By id, in the order in which they ended; the oldest are forgotten first."""

    def __init__(
        self,
        kept_s: float = KEPT_S,
        max_generations: int = MAX_GENERATIONS,
        max_weight: int = MAX_WEIGHT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: `clock` gives seconds."""
        self._kept_s = kept_s
        self._max_generations = max_generations
        self._max_weight = max_weight
        self._clock = clock
        self._by_id: OrderedDict[str, tuple[float, int, T]] = OrderedDict()
        self._weight = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def keep(self, generation_id: str, generation: T, weight: int) -> None:
        """Keep one from now on; `weight` is how many tokens and candidates it holds."""
        self.forget(generation_id)
        self._by_id[generation_id] = (self._clock(), weight, generation)
        self._weight += weight
        self._trim()

    def get(self, generation_id: str) -> T | None:
        """None where it never was, or was forgotten."""
        self._trim()
        found = self._by_id.get(generation_id)
        return None if found is None else found[2]

    def forget(self, generation_id: str) -> None:
        """Forget one; nothing where it is not kept."""
        if (found := self._by_id.pop(generation_id, None)) is not None:
            self._weight -= found[1]

    def _trim(self) -> None:
        oldest_allowed = self._clock() - self._kept_s
        while self._by_id:
            generation_id, (ended_at, _, _) = next(iter(self._by_id.items()))
            fits = len(self._by_id) <= self._max_generations and self._weight <= self._max_weight
            if fits and ended_at >= oldest_allowed:
                return
            self.forget(generation_id)
