"""Stopping: in time, with status 0, and with nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SCRIPT = """
import asyncio, subprocess, sys, time
import uvloop
from server.stopping import Interrupted, Stop, StoppableLoop, end_children

stop = Stop(deadline_s=1.0)
stop.install()
child = subprocess.Popen([sys.executable, "-c", "import signal, time; {child}; time.sleep(600)"])
print(child.pid, flush=True)

async def serve():
    import signal
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    print("serving", flush=True)
    await ended.wait()

try:
    {work}
except Interrupted:
    pass
finally:
    end_children(timeout_s=0.5)
sys.exit(0 if stop.is_requested else 9)
"""
OBEDIENT, STUBBORN = "pass", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
STARTING = "print('starting', flush=True); time.sleep(600)"
SERVING = "uvloop.run(serve(), loop_factory=lambda: StoppableLoop(stop))"
HANGING = "uvloop.run(serve(), loop_factory=lambda: StoppableLoop(stop)); time.sleep(600)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("child", "work"),
    [(OBEDIENT, STARTING), (STUBBORN, STARTING), (STUBBORN, SERVING), (STUBBORN, HANGING)],
    ids=["starting", "starting-stubborn", "serving", "hanging"],
)
def test_a_signal_ends_it_with_status_0_and_no_children(
    tmp_path: Path, child: str, work: str, number: signal.Signals
) -> None:
    script = SCRIPT.format(child=child, work=work)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child_pid = int(process.stdout.readline())
    process.stdout.readline()
    time.sleep(0.2)
    os.kill(process.pid, number)
    assert process.wait(timeout=30) == 0
    assert not psutil.pid_exists(child_pid) or psutil.Process(child_pid).status() == psutil.STATUS_ZOMBIE
