"""Load over HTTP: every stream's times are noted, and a stream that breaks is an error and no fast answer."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest

from training.bench.load import Arrival, at_once, poisson, run_load
from training.errors import MeasurementError

GAP_S = 0.05


class Streams(BaseHTTPRequestHandler):
    """Streams as many chunks as asked for, or breaks as the prompt says."""

    bodies: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Streams.bodies.append(body)
        how = body["prompt"]
        self.send_response(503 if how == "refuse" else 200)
        self.end_headers()
        if how == "refuse":
            self.wfile.write(b"full")
            return
        for n in range(body["max_tokens"]):
            time.sleep(GAP_S)
            self.wfile.write(b'data: {"choices": [{"text": "%d"}]}\n\n' % n)
            self.wfile.flush()
        if how == "error":
            self.wfile.write(b'data: {"error": {"message": "lost"}}\n\n')
        if how != "cut":
            self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Streams, "bodies", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Streams)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_streams_are_sent_when_they_are_due_and_timed_each_by_itself(url: str) -> None:
    arrivals = [Arrival(at_s, {"prompt": f"p{at_s}", "scoring": "fast"}) for at_s in (0.0, 1.5)]
    timing = run_load(url, arrivals, max_tokens=4)
    assert timing.tokens == 8 and len(timing.first_s) == 2 and len(timing.gaps_s) == 6
    assert timing.seconds > 1.5 + 4 * GAP_S
    # What a busy machine reads late comes in a lump: only a stream's sum cannot be less than what was slept.
    assert sum(timing.first_s) + sum(timing.gaps_s) >= 0.9 * 8 * GAP_S
    assert max(timing.first_s) < 1.5, "counted from its own sending, not from the load's start"
    assert timing.tokens_per_s == pytest.approx(8 / timing.seconds)
    assert all(b["max_tokens"] == 4 and b["ignore_eos"] and b["stream"] for b in Streams.bodies)


def test_a_request_that_only_disturbs_is_not_counted(url: str) -> None:
    timing = run_load(url, [Arrival(0.0, {"prompt": "a"}), Arrival(0.1, {"prompt": "long"}, is_watched=False)], 5)
    assert timing.tokens == 5 and len(timing.first_s) == 1 and len(timing.gaps_s) == 4
    assert [body["max_tokens"] for body in Streams.bodies] == [5, 1]


@pytest.mark.parametrize(("how", "says"), [("refuse", "503: full"), ("error", "lost"), ("cut", "2 chunks")])
def test_a_stream_that_breaks_is_an_error(url: str, how: str, says: str) -> None:
    with pytest.raises(MeasurementError, match=says):
        run_load(url, [Arrival(0.0, {"prompt": "fine"}), Arrival(0.0, {"prompt": how})], max_tokens=2)


def test_poisson_arrivals_follow_from_the_seed_and_come_at_the_rate() -> None:
    times = poisson(4000, 5.0, seed=1)
    assert times == poisson(4000, 5.0, seed=1) != poisson(4000, 5.0, seed=2)
    assert times == sorted(times) and times[0] == 0.0 and times[-1] == pytest.approx(800, rel=0.05)
    assert at_once(3) == [0.0] * 3
