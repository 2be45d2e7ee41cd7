"""Whether the workers still answer: asked between two steps of the engine, every few seconds while requests run.

An exchange waits for the step that is under way. So a step that does not end, a stopped process and a stuck engine all
show as an answer that does not come; and the workers' counters are in `/metrics` whether or not anybody reads a trace.
Without requests they are asked seldom: for a second after every message vLLM's workers look for the next without rest.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import asyncio
import time
from collections.abc import Callable

from server.errors import EngineLostError
from server.workers.mailbox import Mailbox

_IDLE_SHARE = 2 / 3
"""Of `stall_s`: so often the workers of a server without requests are asked."""


class Heartbeat:
    """Asks the workers, and remembers when they last answered."""

    def __init__(
        self,
        mailbox: Mailbox,
        stall_s: float,
        is_busy: Callable[[], bool],
        interval_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            stall_s: after how long without an answer they count as stuck.
            is_busy: whether requests run.
            clock: gives seconds.
        """
        self.stall_s = stall_s
        self._mailbox = mailbox
        self._is_busy = is_busy
        self._interval_s = interval_s
        self._clock = clock
        self._answered_at = clock()

    @property
    def is_stalled(self) -> bool:
        """Whether no answer has come for too long."""
        return self._clock() - self._answered_at > self.stall_s

    async def run(self) -> None:
        """Ask for ever."""
        was_busy = True
        while True:
            is_busy = self._is_busy()
            # Once more after the last request, for what it has counted.
            if is_busy or was_busy or self._clock() - self._answered_at > _IDLE_SHARE * self.stall_s:
                await self._ask()
            was_busy = is_busy
            await asyncio.sleep(self._interval_s)

    async def _ask(self) -> None:
        try:
            await asyncio.shield(self._mailbox.ping())
            self._answered_at = self._clock()
        except EngineLostError:
            pass  # the mailbox has logged it; whether the engine lives is for others to say
