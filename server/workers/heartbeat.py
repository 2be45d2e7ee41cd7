"""Whether the workers still answer: asked every few seconds, between two steps of the engine.

An exchange waits for the step that is under way. So a step that does not end, a stopped process and a stuck engine all
show as an answer that does not come; and the workers' counters are in `/metrics` whether or not anybody reads a trace.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import asyncio
import time
from collections.abc import Callable

from server.errors import EngineLostError
from server.workers.mailbox import Mailbox


class Heartbeat:
    """Asks the workers, and remembers when they last answered."""

    def __init__(
        self,
        mailbox: Mailbox,
        stall_s: float,
        interval_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: `stall_s`: after how long without an answer they count as stuck; `clock` gives seconds."""
        self.stall_s = stall_s
        self._mailbox = mailbox
        self._interval_s = interval_s
        self._clock = clock
        self._answered_at = clock()

    @property
    def is_stalled(self) -> bool:
        """Whether no answer has come for too long."""
        return self._clock() - self._answered_at > self.stall_s

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            try:
                await asyncio.shield(self._mailbox.ping())
                self._answered_at = self._clock()
            except EngineLostError:
                pass  # the mailbox has logged it; whether the engine lives is for others to say
            await asyncio.sleep(self._interval_s)
