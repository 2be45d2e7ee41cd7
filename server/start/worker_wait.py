"""On a CPU: the engine's loop sleeps between looks for what its worker has written, where vLLM's would spin.

vLLM's engine and workers wait for each other on shared memory by looking again and again, for a second after every
step. Where nothing but the CPU computes, that takes as much of it as the model does. Its own longer wait, for a
message that there is something to read, is not taken up earlier: a message may get lost, and then it takes 5 s.
"""

import os
import time

from server.start.vllm_arguments import PLUGIN

LOOK_EVERY_S = 2e-4
"""So late is found, at most, what is there; a step of a small base takes a hundred times as long."""


def sleep_between_looks() -> None:
    """vLLM's general plugin, called in each of its processes; does nothing but in a server of ours on a CPU."""
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.platforms import current_platform

    # Where VLLM_PLUGINS does not name it, vLLM has found the plugin in the environment and serves for someone else.
    if PLUGIN in os.environ.get("VLLM_PLUGINS", "").split(",") and current_platform.is_cpu():
        shm_broadcast.sched_yield = _sleep


def _sleep() -> None:
    time.sleep(LOOK_EVERY_S)
