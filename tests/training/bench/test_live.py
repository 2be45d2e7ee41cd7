"""`mavis bench live` around a server that streams, is read, and takes changes as ours does."""

import json
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from training.bench import bench, live, servers
from training.bench.beside import Changes

GAP_S = 0.02
PLAN = ["--streams", "2", "--many", "3", "--rounds", "2", "--max-tokens", "30"]


class Generations(BaseHTTPRequestHandler):
    """Streams numbers at a steady pace; a change holds `lag` tokens after those that were sent when it came."""

    sent: ClassVar[dict[str, int]] = {}
    seen: ClassVar[Counter[str]] = Counter()
    asked: ClassVar[dict[str, set[tuple[tuple[int, ...], int]]]] = {}
    lag: ClassVar[int] = 1
    refusal: ClassVar[int] = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = f"cmpl-{self.headers['X-Request-Id']}"
        assert self.headers["X-Generation-Token"] and body["objective_weights"]
        Generations.seen[f"{len(body['objective_weights'])} weights, {body.get('return_values')}"] += 1
        Generations.asked[body["cache_salt"]].add((tuple(body["prompt"]), body["seed"]))
        self.send_response(200)
        self.end_headers()
        for n in range(body["max_tokens"]):
            time.sleep(GAP_S)
            Generations.sent[name] = n + 1
            self.wfile.write(b'data: {"choices": [{"text": "%d"}]}\n\n' % n)
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")

    def do_GET(self) -> None:
        self._answer("read", {})

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert all(-1 <= weight <= 1 for weight in body["objective_weights"].values())
        self._answer("change", {"effective_from_token": Generations.sent.get(self.path.split("/")[-1], 0) + self.lag})

    def _answer(self, what: str, body: dict[str, Any]) -> None:
        Generations.seen[what] += 1
        self.send_response(self.refusal or (200 if self.path.split("/")[-1] in Generations.sent else 404))
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None: ...


class FakeServer:
    """Takes a processor second for every second."""

    model = "m"

    def __init__(self, url: str) -> None:
        self.url = url

    def cpu_s(self) -> float:
        return time.perf_counter()

    def http_cores(self) -> set[int]:
        return {min(os.sched_getaffinity(0))}


@pytest.fixture(autouse=True)
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Generations, "sent", {})
    monkeypatch.setattr(Generations, "seen", Counter())
    monkeypatch.setattr(Generations, "asked", defaultdict(set))
    monkeypatch.setattr(live, "_recording_ms", lambda rows, objectives: 0.25)
    monkeypatch.setattr(servers, "_QUIET_EVERY_S", 0.001)
    monkeypatch.setattr(servers, "_QUIET_TIMEOUT_S", 0.002)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Generations)
    threading.Thread(target=http.serve_forever, daemon=True).start()

    @contextmanager
    def started(command: Sequence[str], max_rows: int, max_tokens: int) -> Iterator[FakeServer]:
        assert max_rows == 3 and max_tokens > 30
        yield FakeServer(f"http://127.0.0.1:{http.server_port}")

    monkeypatch.setattr(live, "serving", started)
    yield
    http.shutdown()


@pytest.fixture
def where(tiny_probed_checkpoint: Path, tiny_base: str, prompt_file: Path) -> list[str]:
    return ["--values", str(tiny_probed_checkpoint), "--base-folder", tiny_base, "--prompts", str(prompt_file)]


def test_every_side_is_timed_beside_guided_streams(where: list[str], tmp_path: Path) -> None:
    out, cores = tmp_path / "live.json", os.sched_getaffinity(0)
    result = CliRunner().invoke(bench.app, ["live", *where, *PLAN, "--out", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    sides = {each["side"]: each for each in report["figures"]}
    assert list(sides) == [side.name for side in live.SIDES]
    assert sides["guided"]["ratio"]["value"] == 1.0
    assert all(each[kind]["value"] > 0 for each in sides.values() for kind in ("ratio", "cpu_ratio"))
    assert report["recording_ms"] == 0.25 and "0.250 ms" in result.output
    assert set(report["changes"]) == {"changed 5 times a second, 2 streams", "changed once a second, 3 streams"}
    for figures in report["changes"].values():
        assert figures["p50_ms"] <= figures["p95_ms"] <= figures["max_ms"] and 0 < figures["within_two"] <= 1
    assert Generations.seen["read"] and Generations.seen["change"]
    assert os.sched_getaffinity(0) == cores, "what was bound for the load goes where it likes again"
    kinds = {kind.split(", ")[1]: number for kind, number in Generations.seen.items() if "weights" in kind}
    # Two streams in a warm-up and two rounds of every side, and three in two rounds that only change.
    assert kinds == {"None": 3 * 6 + 6, "True": 6, "candidates": 6}
    rounds = Counter(frozenset(asked) for asked in Generations.asked.values() if len(asked) == 2)
    # Of two rounds, the first's also in the warm-up; a salt of its own each time.
    assert sorted(rounds.values()) == [len(live.SIDES), 2 * len(live.SIDES)], "all sides of a round ask for the same"


def test_a_change_that_holds_late_is_counted_as_late() -> None:
    figures = Changes([0.01, 0.02, 0.03, 0.04], [0, 2, 3, 9]).figures()
    assert figures["within_two"] == 0.5 and figures["changes"] == 4 and figures["max_ms"] == pytest.approx(40)


@pytest.mark.parametrize(("sides", "says"), [(3, "reading a stream"), (4, "a change")])
def test_an_answer_that_should_not_be_ends_the_measurement(
    where: list[str], monkeypatch: pytest.MonkeyPatch, sides: int, says: str
) -> None:
    monkeypatch.setattr(Generations, "refusal", 500)
    monkeypatch.setattr(live, "SIDES", (live.GUIDED, live.SIDES[sides]))
    result = CliRunner().invoke(bench.app, ["live", *where, *PLAN])
    assert result.exit_code == 2 and says in result.output and "500" in result.output


def test_noting_is_a_mean_over_steps_that_are_settled_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that every look moves by a second: 512 steps and one reading, the warm-up not counted."""
    from training.bench.recording import recording_ms
    from valuemodels.guide.traces import TraceStore

    clock, told = count(), dict[str, Any]()

    class Spied(TraceStore):
        def read(self, wanted: Any) -> dict[str, dict[str, Any]]:
            told.update(super().read(wanted))
            return told

    monkeypatch.setattr("training.bench.recording.TraceStore", Spied)
    monkeypatch.setattr("training.bench.recording.time.perf_counter", lambda: next(clock))
    assert recording_ms(3, 2) == pytest.approx(1000 * 513 / 512)
    assert set(told) == {"0", "1", "2"}
    for trace in (choices["0:0"] for choices in told.values()):
        assert len(trace["kl"]) == 64 + 512 and all(len(each) == 2 for each in trace["advantages"])
