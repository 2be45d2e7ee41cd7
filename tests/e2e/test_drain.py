"""What befalls a server: a worker that stops for a while, and its own end while a text is being written."""

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.conftest import STALL_S, Server, left_over, processes_of, stop_server, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.processes]

PATH = "/v1/completions"
TEXT: dict[str, Any] = {
    "prompt": "Once upon a time",
    "temperature": 0,
    "ignore_eos": True,
    "objective_weights": {"positivity": 1},
}


def streamed(url: str, body: dict[str, Any], flows: Event) -> str:
    """The text of a guided stream that must end as a stream ends."""
    pieces, lines = [], []
    with httpx.stream("POST", f"{url}{PATH}", json={**body, "stream": True}, timeout=120) as answer:
        for line in answer.iter_lines():
            lines += [line.removeprefix("data: ")] if line else []
            flows.set()
    assert lines.pop() == "[DONE]"
    for line in lines:
        event = json.loads(line)
        assert "error" not in event, event
        pieces += [choice["text"] for choice in event["choices"]]
    return "".join(pieces)


def begun(threads: ThreadPoolExecutor, server: Server, body: dict[str, Any]) -> Future[str]:
    flows = Event()
    stream = threads.submit(streamed, server.url, body, flows)
    assert flows.wait(60), "the stream does not flow"
    return stream


def readiness(server: Server) -> int:
    try:
        return httpx.get(f"{server.url}/ready", timeout=5).status_code
    except httpx.TransportError:
        return 0


@contextmanager
def paused_engine(server: Server) -> Iterator[None]:
    """No step of the engine ends meanwhile."""
    engine = [process for process in processes_of(server) if process.pid != server.process.pid]
    for process in engine:
        process.suspend()
    try:
        yield
    finally:
        for process in engine:
            process.resume()


def test_a_worker_that_stops_makes_the_server_unready_and_nothing_is_lost_when_it_goes_on(operated: Server) -> None:
    body = {**TEXT, "max_tokens": 60}
    alone = httpx.post(f"{operated.url}{PATH}", json=body, timeout=60).json()["choices"][0]["text"]
    with ThreadPoolExecutor() as threads:
        stream = begun(threads, operated, body)
        with paused_engine(operated):
            assert wait_for(lambda: readiness(operated) == 503, timeout_s=STALL_S + 5)
            assert httpx.get(f"{operated.url}/health", timeout=5).status_code == 200, "the process lives"
        assert wait_for(lambda: readiness(operated) == 200, timeout_s=20)
        assert stream.result(timeout=60) == alone


def test_a_server_that_is_told_to_stop_lets_its_streams_end_and_sends_others_away(operated: Server) -> None:
    body = {**TEXT, "max_tokens": 100}
    alone = httpx.post(f"{operated.url}{PATH}", json=body, timeout=120).json()["choices"][0]["text"]
    with ThreadPoolExecutor() as threads:
        stream = begun(threads, operated, body)
        with paused_engine(operated):  # so that the stream is under way when the others are refused
            stop = threads.submit(stop_server, operated, signal.SIGTERM, 120)
            assert wait_for(lambda: readiness(operated) == 503, timeout_s=5)
            refused = httpx.post(f"{operated.url}{PATH}", json=body, timeout=10)
            assert refused.status_code == 503 and int(refused.headers["Retry-After"]) > 0
            assert refused.json()["error"]["type"] == "ServiceUnavailableError"
            assert not stream.done(), "the stream was cut"
        assert stream.result(timeout=120) == alone, "the stream was cut"
        ended = time.monotonic()
        status, _ = stop.result(timeout=30)
    assert status == 0 and time.monotonic() - ended < 10
    assert left_over(operated) == [] and not psutil.pid_exists(operated.process.pid)
