"""A worker that cannot start tells its server why, and ends when the server has."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from queue import SimpleQueue

import pytest

from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.server_process import COMPLAINT_FILE, SERVER_PID, complaining, complaint_in, end_with_server


def fail_with(error: Exception) -> None:
    with pytest.raises(type(error)), complaining():
        raise error


def test_the_sentence_is_handed_over_and_the_error_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "complaint"
    monkeypatch.setenv(COMPLAINT_FILE, str(file))
    with complaining():
        pass
    assert complaint_in(file) is None
    fail_with(CheckpointError("a cache of 0 GiB holds nothing"))
    assert complaint_in(file) == "a cache of 0 GiB holds nothing"


def test_only_our_own_errors_are_sentences_for_an_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "complaint"
    monkeypatch.setenv(COMPLAINT_FILE, str(file))
    fail_with(KeyError("rope_theta"))
    assert complaint_in(file) is None


@pytest.mark.parametrize("file", [None, "/nowhere/complaint"])
def test_an_error_that_cannot_be_handed_over_goes_on_all_the_same(
    file: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(COMPLAINT_FILE, raising=False)
    if file is not None:
        monkeypatch.setenv(COMPLAINT_FILE, file)
    fail_with(CheckpointError("no room"))
    assert bool(caplog.records) == (file is not None)


WORKER = "import time; from valuemodels.contract.server_process import end_with_server as end; end(); print(); "
ON = f"{WORKER} time.sleep(60)"


def worker(server: int | None) -> "subprocess.Popen[bytes]":
    """A process that has said that it watches."""
    environment = {name: value for name, value in os.environ.items() if name != SERVER_PID}
    if server is not None:
        environment[SERVER_PID] = str(server)
    started = subprocess.Popen([sys.executable, "-c", ON], env=environment, stdout=subprocess.PIPE)
    assert started.stdout is not None and started.stdout.readline() == b"\n"
    return started


def test_it_ends_with_its_server_and_not_before() -> None:
    server = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    below = worker(server.pid)
    try:
        time.sleep(0.3)
        assert below.poll() is None
        server.kill()
        server.wait()
        assert below.wait(timeout=10) == -signal.SIGKILL
    finally:
        server.kill()
        below.kill()


def test_it_does_not_begin_without_the_server_that_started_it() -> None:
    server = subprocess.Popen([sys.executable, "-c", ""])
    server.wait()
    begun = subprocess.run([sys.executable, "-c", ON], env={**os.environ, SERVER_PID: str(server.pid)}, timeout=60)
    assert begun.returncode == -signal.SIGKILL


def test_an_engine_without_a_server_watches_nobody() -> None:
    below = worker(None)
    try:
        time.sleep(0.3)
        assert below.poll() is None
    finally:
        below.kill()
        below.wait()


def test_it_kills_itself_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: SimpleQueue[tuple[int, int]] = SimpleQueue()
    monkeypatch.setattr(os, "kill", lambda *what: killed.put(what))
    server = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setenv(SERVER_PID, str(server.pid))
    end_with_server()
    assert killed.empty()
    server.communicate(b"\n", timeout=10)
    assert killed.get(timeout=10) == (os.getpid(), signal.SIGKILL)
