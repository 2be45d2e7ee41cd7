"""The generations that somebody may change or ask for, by id: those that run, and for a while those that have ended.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from server.errors import LiveIdError
from server.generations.generation import Generation
from server.metrics import GENERATIONS

KEPT_S = 300.0
MAX_ENDED = 1024
MAX_ENDED_WEIGHT = 200_000
"""Tokens of all that have ended: one takes a few hundred bytes, and so does a dozen candidates."""


class Registry:
    """Ids are taken from `open` to `close`; what is closed stays readable for a bounded time, bounded in size."""

    def __init__(
        self,
        kept_s: float = KEPT_S,
        max_ended: int = MAX_ENDED,
        max_ended_weight: int = MAX_ENDED_WEIGHT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: `clock` gives seconds."""
        self._kept_s = kept_s
        self._max_ended = max_ended
        self._max_ended_weight = max_ended_weight
        self._clock = clock
        self._running: dict[str, Generation] = {}
        # In the order in which they ended, each with when that was and how much it holds.
        self._ended: OrderedDict[str, tuple[float, int, Generation]] = OrderedDict()
        self._weight = 0

    def __len__(self) -> int:
        """How many ids are taken."""
        return len(self._running)

    def running(self, generation_id: str) -> Generation | None:
        """The generation that has this id now."""
        return self._running.get(generation_id)

    def find(self, generation_id: str) -> Generation | None:
        """The generation that has this id, or had it last; None where it never was, or was forgotten."""
        if (found := self._running.get(generation_id)) is not None:
            return found
        self._trim()
        ended = self._ended.get(generation_id)
        return None if ended is None else ended[2]

    def open(self, generation: Generation) -> None:
        """Register a generation.

        Raises:
            LiveIdError: one of this id is still running.
        """
        if generation.id in self._running:
            raise LiveIdError(generation.id)
        self._running[generation.id] = generation
        GENERATIONS.set(len(self._running))
        self._forget(generation.id)

    def withdraw(self, generation: Generation) -> None:
        """Undo `open`: nothing has come of it."""
        if self._running.get(generation.id) is generation:
            del self._running[generation.id]
            GENERATIONS.set(len(self._running))

    def close(self, generation: Generation) -> None:
        """Free the id; nothing where it is free already, or another's."""
        if self._running.get(generation.id) is not generation:
            return
        del self._running[generation.id]
        GENERATIONS.set(len(self._running))
        self._ended[generation.id] = (self._clock(), generation.weight, generation)
        self._weight += generation.weight
        self._trim()

    def _forget(self, generation_id: str) -> None:
        if (found := self._ended.pop(generation_id, None)) is not None:
            self._weight -= found[1]

    def _trim(self) -> None:
        oldest_allowed = self._clock() - self._kept_s
        while self._ended:
            generation_id, (ended_at, _, _) = next(iter(self._ended.items()))
            fits = len(self._ended) <= self._max_ended and self._weight <= self._max_ended_weight
            if fits and ended_at >= oldest_allowed:
                return
            self._forget(generation_id)
