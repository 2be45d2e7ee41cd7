"""Generations that have ended, kept for those who ask for them afterwards: for a bounded time, bounded in size.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from server.errors import LiveIdError
from server.generations.generation import Generation

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


class Registry:
    """Generations by id, from `open` until the worker has forgotten them; `ended` keeps them for a while longer."""

    def __init__(self) -> None:
        self._by_id: dict[str, Generation] = {}
        self.ended: EndedGenerations[Generation] = EndedGenerations()

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, generation_id: str) -> Generation | None:
        return self._by_id.get(generation_id)

    def open(self, generation: Generation) -> None:
        """Register a generation.

        Raises:
            LiveIdError: one of this id is still running.
        """
        if generation.id in self._by_id:
            raise LiveIdError(generation.id)
        self._by_id[generation.id] = generation
        self.ended.forget(generation.id)

    def close(self, generation: Generation) -> None:
        """Free the id; nothing where it is free already."""
        if self._by_id.get(generation.id) is generation:
            del self._by_id[generation.id]
            self.ended.keep(generation.id, generation, generation.weight)
