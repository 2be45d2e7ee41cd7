"""Stops within seconds, whatever the server is doing, and leaves no process behind.

SIGINT and SIGTERM end a start that is under way at once; when vLLM serves, they reach its own handlers through
`StoppableLoop`. SIGTERM first lets running requests end, for a settable time; SIGINT, or a second signal, does not.
Then a clock runs; when it runs out, what is left is killed.

Runs in the HTTP process's main thread. No torch, no vLLM.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import psutil
import uvloop

from server.gate.drain import Drain

logger = logging.getLogger("mavis.stop")

DEADLINE_S = 8.0
CHILDREN_S = 2.0
_KILL_ROUNDS = 3
_STDERR = 2
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl(2)


def end_start_at_signals() -> None:
    """Make SIGINT and SIGTERM end this process, whose main thread calls this, and all below it, with status 0.

    asyncio replaces only Python's own handler of SIGINT, by one that would wait for the engine's whole start.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_start)


class Stop:
    """Whether a serving process was asked to stop, and the clock that makes it come true."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._drain: tuple[Drain, float] | None = None
        self._drained: asyncio.Task[None] | None = None
        self._has_clock = False
        self.is_requested = False

    def drain_first(self, drain: Drain, timeout_s: float) -> None:
        """Once asked to, let what runs end before the stop, for so long."""
        self._drain = (drain, timeout_s)

    def request(self, then: Callable[[], object], *, may_drain: bool) -> None:
        """Stop: drain, start the clock, do what is to be done. A second request waits for no drain any more.

        Must be called on the event loop.
        """
        is_first, self.is_requested = not self.is_requested, True
        if self._drain is not None and is_first and may_drain:
            drain, timeout_s = self._drain
            drain.begin()
            logger.info("draining: %d requests are running, at most %g s", drain.running, timeout_s)
            self._drained = asyncio.get_running_loop().create_task(self._after_drain(drain, timeout_s, then))
            return
        if self._drained is not None:
            self._drained.cancel()
        self._go(then)

    async def _after_drain(self, drain: Drain, timeout_s: float, then: Callable[[], object]) -> None:
        await drain.until_idle(timeout_s)
        self._go(then)

    def _go(self, then: Callable[[], object]) -> None:
        if not self._has_clock:
            self._has_clock = True
            clock = threading.Timer(self._deadline_s, self._give_up)
            clock.daemon = True
            clock.start()
        then()

    def _give_up(self) -> None:
        end_children(timeout_s=0)
        os._exit(0)


class StoppableLoop(uvloop.Loop):
    """An event loop whose signal handlers drain, and start the clock, before they do what they are for."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop_request = stop

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """As uvloop's; vLLM's server installs its handlers through this."""

        def noted() -> None:
            self._stop_request.request(lambda: callback(*args), may_drain=sig == signal.SIGTERM)

        super().add_signal_handler(sig, noted)


def adopt_orphans() -> None:
    """Become the parent of what the processes below this one leave when they die, so that `end_children` finds it.

    vLLM's workers outlive an engine that is killed.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """Have SIGTERM come when this process's parent dies, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def end_children(timeout_s: float = CHILDREN_S) -> None:
    """Terminate all processes below this one; kill those that are still there after `timeout_s`."""
    if timeout_s:
        children = _children()
        for child in children:
            _tell(child.terminate)
        psutil.wait_procs(children, timeout=timeout_s)
    for _ in range(_KILL_ROUNDS):  # a process may have started another just before it was killed
        alive = _children()
        for child in alive:
            _tell(child.kill)
        psutil.wait_procs(alive, timeout=1)


def leave(status: int) -> NoReturn:
    """End this process without Python's own farewell, in which vLLM's native modules count what they leaked."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _end_start(number: int, frame: object) -> NoReturn:
    """Unwind nothing: vLLM would wait for the engine, which takes no signal before it is up and has nothing to lose."""
    for further in (signal.SIGINT, signal.SIGTERM):
        signal.signal(further, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.write(_STDERR, b"mavis: stopped\n")  # the interrupted frame may be inside a print
    end_children(timeout_s=0)
    os._exit(0)


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if not _ends_by_itself(child)]


def _ends_by_itself(process: psutil.Process) -> bool:
    """multiprocessing's tracker ignores signals, ends with us, and then cleans up the shared memory we left."""
    try:
        return any("resource_tracker" in argument for argument in process.cmdline())
    except psutil.Error:
        return False


def _tell(action: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        action()
