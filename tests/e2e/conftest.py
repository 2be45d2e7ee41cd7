"""One real server for all end-to-end tests: `mavis serve` with the embedded default."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

START_TIMEOUT_S = 240


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        log: what it has printed.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(log: Path, *arguments: str) -> Server:
    """Start `mavis serve` on a free port; does not wait."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("mavis")), "serve", "--port", str(port), *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ})
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


def stop_server(server: Server, how: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
    """Signal the server; returns its exit status and how many seconds it took."""
    started = time.monotonic()
    server.process.send_signal(how)
    status = server.process.wait(timeout=30)
    return status, time.monotonic() - started


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("server") / "log.txt")
    try:
        wait_until_ready(running)
        yield running
    finally:
        if running.process.poll() is None:
            stop_server(running)


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client
