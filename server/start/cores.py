"""On a CPU: the HTTP process and the engine's loop keep off the cores on which the model is computed.

vLLM binds its CPU workers to cores, and nothing else. Left alone, the kernel puts the HTTP process on a worker's core
as often as on another, where it takes from the worker what the other has to spare.
"""

import contextlib
import logging
import os

import psutil

logger = logging.getLogger("mavis.server")

_WORKER = "VLLM::Worker"
_PASSES = 10
"""How often a process is looked at for threads that have begun meanwhile; two are enough but for one that starts."""


def keep_off_the_workers_cores() -> None:
    """Bind this process and vLLM's others, where the workers leave them a core; else nothing changes."""
    if not hasattr(os, "sched_setaffinity"):
        return
    others, taken = [psutil.Process()], set[int]()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(name.startswith(_WORKER) for name in (child.name(), *child.cmdline()[:1])):
                taken.update(child.cpu_affinity())
            else:
                others.append(child)
    free = os.sched_getaffinity(0) - taken
    if not taken or not free:
        return
    for process in others:
        with contextlib.suppress(psutil.Error):
            _bind(process, free)
    logger.info("%d cores compute the model; HTTP and the engine's loop keep to %d others", len(taken), len(free))


def _bind(process: psutil.Process, cores: set[int]) -> None:
    """All of its threads; again those that have begun meanwhile, with the cores of the threads that began them.

    Raises:
        psutil.Error: the process is gone.
    """
    bound: set[int] = set()
    for _ in range(_PASSES):
        threads = {thread.id for thread in process.threads()} - bound
        if not threads:
            return
        for thread in threads:
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setaffinity(thread, cores)
        bound |= threads
