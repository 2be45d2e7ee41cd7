"""Stops within seconds, whatever the server is doing, and leaves no process behind.

SIGINT and SIGTERM interrupt a start that is under way; once vLLM serves, they reach its own handlers through
`StoppableLoop`. From the first signal a clock runs; when it runs out, what is left is killed.

Runs in the HTTP process's main thread. No torch, no vLLM.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import psutil  # type: ignore[import-untyped]
import uvloop

DEADLINE_S = 8.0
CHILDREN_S = 2.0


class Interrupted(SystemExit):
    """A signal ends the start. Not `KeyboardInterrupt`: vLLM swallows that while it waits for the engine to come up."""


class Stop:
    """Whether a stop was asked for, and the clock that makes it come true."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self.is_requested = False

    def install(self) -> None:
        """Make SIGINT and SIGTERM raise `Interrupted` in this, the main thread.

        asyncio replaces only Python's own handler of SIGINT, by one that would wait for the engine's whole start.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    def request(self) -> None:
        """Start the clock; again does nothing."""
        if not self.is_requested:
            self.is_requested = True
            clock = threading.Timer(self._deadline_s, self._give_up)
            clock.daemon = True
            clock.start()

    def _interrupt(self, number: int, frame: object) -> None:
        if self.is_requested:
            return  # the clock runs; a second interrupt would only break off the cleaning up
        self.request()
        raise Interrupted(0)

    def _give_up(self) -> None:
        end_children(timeout_s=0)
        os._exit(0)


class StoppableLoop(uvloop.Loop):
    """An event loop whose signal handlers start the clock before they do what they are for."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop_request = stop

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """As uvloop's; vLLM's server installs its handlers through this."""

        def noted() -> None:
            self._stop_request.request()
            callback(*args)

        super().add_signal_handler(sig, noted)


def end_children(timeout_s: float = CHILDREN_S) -> None:
    """Terminate all processes below this one; kill those that are still there after `timeout_s`."""
    children = [child for child in psutil.Process().children(recursive=True) if not _ends_by_itself(child)]
    for child in children if timeout_s else []:
        _tell(child.terminate)
    _, alive = psutil.wait_procs(children, timeout=timeout_s)
    for child in alive:
        _tell(child.kill)
    psutil.wait_procs(alive, timeout=1)


def leave(status: int) -> NoReturn:
    """End this process without Python's own farewell, in which vLLM's native modules count what they leaked."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _ends_by_itself(process: psutil.Process) -> bool:
    """multiprocessing's tracker ignores signals, ends with us, and then cleans up the shared memory we left."""
    try:
        return any("resource_tracker" in argument for argument in process.cmdline())
    except psutil.Error:
        return False


def _tell(action: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        action()
