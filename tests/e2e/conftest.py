"""Real servers: one for all end-to-end tests, `mavis serve` with the embedded default, and what starts others."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from server.cluster.child import free_port

START_TIMEOUT_S = 240
ADMIN_KEY = "an-operators-own-key"
STALL_S = 3
DRAIN_S = 120  # some machines write seven tokens a second


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        log: what it has printed.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path


def start_server(log: Path, *arguments: str, **environment: str) -> Server:
    """Start `mavis serve` on a free port, in a session of its own; does not wait."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("mavis")), "serve", "--port", str(port), *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )
    return Server(f"http://127.0.0.1:{port}", process, log)


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert server.process.poll() is None, f"the server ended:\n{server.log.read_text()[-3000:]}"
        try:
            if httpx.get(f"{server.url}/ready", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"not ready after {START_TIMEOUT_S} s:\n{server.log.read_text()[-3000:]}")


def stop_server(server: Server, how: signal.Signals = signal.SIGTERM, timeout_s: float = 30) -> tuple[int, float]:
    """Signal the server; returns its exit status and how many seconds it took."""
    started = time.monotonic()
    server.process.send_signal(how)
    status = server.process.wait(timeout_s)
    return status, time.monotonic() - started


def running(http: httpx.Client) -> int:
    """How many requests the engine works on."""
    line = next(x for x in http.get("/metrics").text.splitlines() if x.startswith("vllm:num_requests_running{"))
    return int(float(line.rsplit(" ", 1)[1]))


def wait_for(condition: Callable[[], bool], timeout_s: float = 15) -> bool:
    """Whether it holds before the time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


def processes_of(server: Server) -> list[psutil.Process]:
    """The server's processes that run, orphans among them: whoever adopts them, they stay in its session."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == server.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def left_over(server: Server, timeout_s: float = 5) -> list[str]:
    """What still runs this long after the server has ended."""
    psutil.wait_procs(processes_of(server), timeout=timeout_s)
    return [str(process) for process in processes_of(server)]


def kill_server(server: Server) -> None:
    """Kill all there is of a server; nothing where it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()


@contextlib.contextmanager
def serving(folder: Path, *arguments: str, **environment: str) -> Iterator[Server]:
    """A server that is ready, and has to end well."""
    running = start_server(folder / "log.txt", *arguments, **environment)
    try:
        wait_until_ready(running)
        yield running
        assert stop_server(running)[0] == 0
    finally:
        kill_server(running)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def values_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty at first."""
    return tmp_path_factory.mktemp("values")


@pytest.fixture(scope="session")
def operated(values_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes checkpoints from `values_root`; `test_drain`, the last to use it, stops it."""
    settings = {
        "MAVIS_ADMIN_KEY": ADMIN_KEY,
        "MAVIS_VALUES_ROOT": str(values_root),
        "MAVIS_STALL_S": str(STALL_S),
        "MAVIS_DRAIN_S": str(DRAIN_S),
    }
    server = start_server(tmp_path_factory.mktemp("operated") / "log.txt", **settings)
    try:
        wait_until_ready(server)
        yield server
    finally:
        kill_server(server)


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client
