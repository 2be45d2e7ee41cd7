"""Ends that come too early: a signal while the engine starts, and an engine that is killed under its requests."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.conftest import (
    Server,
    kill_server,
    left_over,
    processes_of,
    running,
    start_server,
    stop_server,
    wait_for,
    wait_until_ready,
)

pytestmark = [pytest.mark.engine, pytest.mark.processes]

PATH = "/v1/completions"
LONG = {"prompt": "Hello", "max_tokens": 3000, "ignore_eos": True, "objective_weights": {"positivity": 1}}
LOADING = "Starting to load model"
"""What vLLM logs when all processes of the engine are there and none of them is ready."""


@dataclass(frozen=True)
class End:
    """How a server ended.

    Attributes:
        seconds: from what ended it until its process was gone.
        stream: the events of a stream that ran meanwhile; answer: what a request that was not streamed got.
        was_unready: whether it said so, or was gone, within 5 seconds.
    """

    status: int
    seconds: float
    log: str
    left_over: list[str]
    stream: tuple[dict[str, Any], ...] = ()
    answer: httpx.Response | None = None
    was_unready: bool = False

    @property
    def said(self) -> list[str]:
        return [line for line in self.log.splitlines() if line.startswith("mavis: ")]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> End:
    """A server that got SIGTERM while its engine started."""
    server = start_server(tmp_path_factory.mktemp("interrupted") / "log.txt")
    try:
        assert wait_for(lambda: LOADING in server.log.read_text(), timeout_s=120), server.log.read_text()[-3000:]
        status, seconds = stop_server(server)
        return End(status, seconds, server.log.read_text(), left_over(server))
    finally:
        kill_server(server)


@pytest.fixture(scope="module", params=["EngineCore", pytest.param("Worker", marks=pytest.mark.slow)])
def bereft(request: pytest.FixtureRequest, interrupted: End, tmp_path_factory: pytest.TempPathFactory) -> Iterator[End]:
    """The server that was started next; a process of its engine was killed while it answered two guided requests."""
    server = start_server(tmp_path_factory.mktemp("bereft") / "log.txt")
    try:
        wait_until_ready(server)
        with ThreadPoolExecutor() as threads, httpx.Client(base_url=server.url) as http:
            flows = Event()
            stream, answer = threads.submit(streamed, server.url, flows), threads.submit(answered, server.url)
            assert flows.wait(timeout=60) and wait_for(lambda: running(http) == 2), "the requests do not run"
            started = time.monotonic()
            engine_process(server, request.param).kill()
            unready = wait_for(lambda: not is_ready(server.url), timeout_s=5)
            yield replace(end_of(server, started, stream, answer), was_unready=unready)
    finally:
        kill_server(server)


def engine_process(server: Server, name: str) -> psutil.Process:
    (found,) = [process for process in processes_of(server) if name in " ".join(process.cmdline())]
    return found


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def streamed(url: str, flows: Event) -> tuple[dict[str, Any], ...]:
    """The events of a guided stream; it must end as a stream ends, not break off."""
    lines = []
    with httpx.stream("POST", f"{url}{PATH}", json={**LONG, "stream": True}, timeout=60) as answer:
        for line in answer.iter_lines():
            lines += [line.removeprefix("data: ")] if line else []
            flows.set()
    assert lines.pop() == "[DONE]"
    return tuple(map(json.loads, lines))


def answered(url: str) -> httpx.Response:
    return httpx.post(f"{url}{PATH}", json=LONG, timeout=60)


def end_of(
    server: Server, started: float, stream: Future[tuple[dict[str, Any], ...]], answer: Future[httpx.Response]
) -> End:
    events, response = stream.result(timeout=30), answer.result(timeout=30)
    status = server.process.wait(timeout=30)
    seconds = time.monotonic() - started
    return End(status, seconds, server.log.read_text(), left_over(server), events, response)


def is_in_the_envelope(error: dict[str, Any]) -> bool:
    return error.keys() == {"message", "type", "param", "code"} and error["code"] == 500 and bool(error["message"])


@pytest.mark.slow
def test_an_engine_does_not_outlive_a_server_that_is_killed(tmp_path: Path) -> None:
    server = start_server(tmp_path / "log.txt")
    try:
        wait_until_ready(server)
        assert any("Worker" in process.name() for process in processes_of(server))
        server.process.kill()
        server.process.wait()
        assert wait_for(lambda: not processes_of(server), timeout_s=30), processes_of(server)
    finally:
        kill_server(server)


def test_a_signal_while_the_engine_starts_ends_all_of_it(interrupted: End) -> None:
    assert interrupted.status == 0 and interrupted.seconds < 10
    assert interrupted.left_over == []
    assert interrupted.said == ["mavis: stopped"] and "Traceback" not in interrupted.log


def test_a_stream_whose_engine_is_killed_ends_in_an_error(bereft: End) -> None:
    assert len(bereft.stream) > 1
    assert not any("error" in event for event in bereft.stream[:-1])
    assert is_in_the_envelope(bereft.stream[-1]["error"])


def test_a_request_whose_engine_is_killed_fails_at_once(bereft: End) -> None:
    assert bereft.answer is not None, "its connection was closed without an answer"
    assert bereft.answer.status_code == 500 and is_in_the_envelope(bereft.answer.json()["error"])


def test_a_server_whose_engine_is_killed_says_so_and_ends_with_status_1(bereft: End) -> None:
    assert bereft.status == 1 and bereft.seconds < 30 and bereft.was_unready
    assert bereft.said == ["mavis: the engine died; the reason stands above"]
    assert bereft.left_over == []
