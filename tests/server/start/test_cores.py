"""Who keeps off which cores, told from real processes; in a process of its own, since it binds the one that asks."""

import json
import os
import subprocess
import sys
from textwrap import dedent

import pytest

needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="binds processes to one core of several")

FAMILY = """
    import json, os, subprocess, sys, threading, time
    from server.start.cores import keep_off_the_workers_cores

    def child(name, cores):
        running = subprocess.Popen([name, "-c", "import time; print(1, flush=True); time.sleep(60)"],
                                   executable=sys.executable, stdout=subprocess.PIPE)
        running.stdout.readline()
        os.sched_setaffinity(running.pid, cores)
        return running

    every, taken = sorted(os.sched_getaffinity(0)), json.loads(sys.argv[1])
    children = [child("VLLM::Worker_TP0", taken)] if taken else []
    children.append(child("VLLM::EngineCore", every))
    stop = threading.Event()
    threading.Thread(target=stop.wait, daemon=True).start()
    keep_off_the_workers_cores()
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    print(json.dumps([sorted(os.sched_getaffinity(each)) for each in [*threads, *(c.pid for c in children)]]))
    for each in children:
        each.kill()
"""


def cores_with(taken: list[int]) -> list[list[int]]:
    """Of this process's two threads, of the worker if it takes any, and of the engine's process."""
    command = [sys.executable, "-c", dedent(FAMILY), json.dumps(taken)]
    found: list[list[int]] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


@needs_two_cores
def test_all_but_the_workers_keep_off_their_cores() -> None:
    first, *others = sorted(os.sched_getaffinity(0))
    assert cores_with([first]) == [others, others, [first], others]


@pytest.mark.parametrize("is_taken", [False, True], ids=["no worker", "no core left"])
def test_nobody_is_bound_where_there_is_nothing_to_keep_off_or_nowhere_to_go(is_taken: bool) -> None:
    every = sorted(os.sched_getaffinity(0))
    found = cores_with(every if is_taken else [])
    assert found == [every] * len(found) and len(found) == 3 + is_taken
