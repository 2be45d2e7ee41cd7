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
from server.start.stopping import Stop, StoppableLoop, end_children, end_start_at_signals

stop = Stop(deadline_s=1.0)
end_start_at_signals()
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
    assert has_ended(child_pid)


ENGINE = """
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(worker.pid, flush=True)
worker.wait()
"""


def test_what_a_killed_child_leaves_behind_is_ended_too() -> None:
    script = f"""
import subprocess, sys
from server.start.stopping import adopt_orphans, end_children
adopt_orphans()
engine = subprocess.Popen([sys.executable, "-c", {ENGINE!r}], stdout=subprocess.PIPE, text=True)
print(engine.stdout.readline(), flush=True)
engine.kill()
engine.wait()
end_children(timeout_s=0.5)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=30, check=True)
    assert has_ended(int(done.stdout))


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


DRAINING = """
import asyncio, signal, sys, time
import uvloop
from server.gate.drain import Drain
from server.start.stopping import Stop, StoppableLoop

stop, drain = Stop(deadline_s=5.0), Drain()
stop.drain_first(drain, {timeout_s})

async def serve():
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    drain.enter()
    print("serving", flush=True)
    async def finish():
        while not drain.is_draining:
            await asyncio.sleep(0.01)
        await asyncio.sleep({request_s})
        drain.leave()
    running = asyncio.create_task(finish())
    await ended.wait()
    print("cut" if drain.running else "ended", flush=True)

uvloop.run(serve(), loop_factory=lambda: StoppableLoop(stop))
"""


@pytest.mark.parametrize(
    ("signals", "timeout_s", "request_s", "said", "at_least_s", "at_most_s"),
    [
        ([signal.SIGTERM], 30, 0.5, "ended", 0.4, 5),
        ([signal.SIGTERM], 0.5, 60, "cut", 0.4, 5),
        ([signal.SIGINT], 30, 60, "cut", 0, 2),
        ([signal.SIGTERM, signal.SIGTERM], 30, 60, "cut", 0, 2),
        ([signal.SIGTERM, signal.SIGINT], 30, 60, "cut", 0, 2),
    ],
    ids=["ends", "too long", "interrupted", "twice", "then interrupted"],
)
def test_sigterm_lets_what_runs_end_for_a_while(
    signals: list[signal.Signals], timeout_s: float, request_s: float, said: str, at_least_s: float, at_most_s: float
) -> None:
    script = DRAINING.format(timeout_s=timeout_s, request_s=request_s)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "serving\n"
    started = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)
    assert process.stdout.readline().strip() == said
    assert at_least_s <= time.monotonic() - started < at_most_s
    assert process.wait(timeout=30) == 0
