"""Work that a loading thread has the engine's thread do, while no step is under way.

What vLLM's kernels for a CPU work with in between is one and the same for all threads of a process, and a CUDA graph is
recorded alone: two threads that both use them give wrong numbers, or none. No torch, no vLLM.
"""

from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

_Result = TypeVar("_Result")


class HaveDone(Protocol):
    """Has something done, and waits for what it gives."""

    def __call__(self, work: Callable[[], _Result]) -> _Result: ...


def at_once(work: Callable[[], _Result]) -> _Result:
    """`HaveDone` of the engine's own thread."""
    return work()


class BetweenSteps:
    """Hands work over to the thread that calls `catch_up`."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()

    def have_done(self, work: Callable[[], _Result]) -> _Result:
        """Wait until the other thread has done it; what it raises is raised here."""
        done: Future[_Result] = Future()
        self._waiting.put((work, done))
        return done.result()

    def catch_up(self) -> None:
        """Do what has been handed over by now."""
        while True:
            try:
                work, done = self._waiting.get_nowait()
            except Empty:
                return
            try:
                done.set_result(work())
            except Exception as error:  # it belongs to the thread that waits
                done.set_exception(error)
