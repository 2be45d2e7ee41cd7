"""The end of a server's day: new requests are sent elsewhere, those that run are let finish.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import asyncio
import contextlib


class Drain:
    """Counts the requests that generate, and says when the last of them has ended.

    Attributes:
        is_draining: no new ones are taken.
    """

    def __init__(self) -> None:
        self.is_draining = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """How many requests there are."""
        return self._running

    def begin(self) -> None:
        """Take no new ones from now on."""
        self.is_draining = True

    def enter(self) -> None:
        """A request begins."""
        self._running += 1
        self._idle.clear()

    def leave(self) -> None:
        """A request has ended, be it well or not."""
        self._running -= 1
        if not self._running:
            self._idle.set()

    async def until_idle(self, timeout_s: float) -> bool:
        """Wait for the last one; False where it takes longer than that."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        return self._idle.is_set()
