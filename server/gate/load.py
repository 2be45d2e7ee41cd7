"""How much the engine has to do, as the HTTP process sees it: what runs, what waits, and for how long.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

from server.metrics import WAITING

_REMEMBERED = 64
_RECENT_S = 60.0
MAX_RETRY_S = 60


class EngineLoad:
    """Counts sequences that the engine has been handed and has not answered a token of.

    Attributes:
        waiting: how many there are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: `clock` gives seconds."""
        self.waiting = 0
        self._clock = clock
        self._begun: deque[tuple[float, int]] = deque(maxlen=_REMEMBERED)

    def estimated_wait_s(self) -> float:
        """How long a sequence that comes now will wait, if those before it go on beginning as they lately did.

        0 where none waits or nothing has begun lately, so that an idle server never seems busy.
        """
        now = self._clock()
        recent = [(at, sequences) for at, sequences in self._begun if now - at < _RECENT_S]
        if not self.waiting or len(recent) < 2:
            return 0.0
        return self.waiting * (now - recent[0][0]) / sum(sequences for _, sequences in recent)

    def retry_after_s(self) -> int:
        """When to come again, in whole seconds."""
        return min(MAX_RETRY_S, max(1, math.ceil(self.estimated_wait_s())))

    async def watched(self, outputs: AsyncGenerator[Any, None], sequences: int) -> AsyncGenerator[Any, None]:
        """The engine's outputs of one prompt, as they come."""
        self._wait(sequences)
        is_waiting = True
        try:
            async for output in outputs:
                if is_waiting:
                    is_waiting = False
                    self._wait(-sequences)
                    self._begun.append((self._clock(), sequences))
                yield output
        finally:
            if is_waiting:
                self._wait(-sequences)
            await outputs.aclose()  # aborts the request where the client has gone

    def _wait(self, sequences: int) -> None:
        self.waiting += sequences
        WAITING.set(self.waiting)
