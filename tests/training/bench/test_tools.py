"""`mavis bench tools` around commands that write what the tools write: what they are asked, and read."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from typer.testing import CliRunner

from tests.training.bench.test_http import FakeServer
from training.bench import bench, by_tools, servers
from training.bench.load import Arrival, LoadTiming
from training.bench.tools import ToolLoad, VllmBench

PLAN = ["--rounds", "2", "--requests", "6", "--max-tokens", "10", "--guidellm", "guidellm"]
SECONDS = 4.0


class Commands:
    """Writes the tools' files. A first token takes 10 ms of plain vLLM, 12 of ours, and twice that with weights."""

    def __init__(self) -> None:
        self.run: list[tuple[str, dict[str, Any]]] = []
        self.lost = 0
        self.status = 0

    def __call__(self, command: Sequence[str], **_: Any) -> Any:
        if "-c" in command:
            named = dict(pairwise(command))
            url, fields = named["--base-url"], json.loads(named["--extra-body"])
            folder, requests = Path(named["--result-dir"]), int(named["--num-prompts"])
            assert len(Path(named["--dataset-path"]).read_text().splitlines()) == requests
        else:
            spec = json.loads(Path(command[3]).read_text())["spec"]
            url, fields = spec["backend"]["target"], spec["backend"]["extras"]["body"]
            folder, requests = Path(command[3]).parent, spec["constraints"][0]["count"]
        self.run.append((url, fields))
        ms = 10.0 if url == "plain" else 24.0 if "objective_weights" in fields else 12.0
        self._write(folder, requests - self.lost, ms)
        return SimpleNamespace(returncode=self.status, stdout="it said\n", stderr="this")

    @staticmethod
    def _write(folder: Path, completed: int, ms: float) -> None:
        latencies = {f"p{share}_{what}_ms": ms for share in (50, 95, 99) for what in ("ttft", "itl")}
        counts = {"completed": completed, "failed": 0, "output_throughput": 60.0, "request_goodput": 1.25}
        (folder / "vllm.json").write_text(json.dumps(latencies | counts))
        metric = {"successful": {"percentiles": {"p50": ms, "p95": ms, "p99": ms}}}
        metrics = {
            "request_totals": {"successful": completed},
            "time_to_first_token_ms": metric,
            "inter_token_latency_ms": metric,
            "output_token_count": {"successful": {"total_sum": 60 * SECONDS}},
            "slo_attainment": 0.5,
        }
        (folder / "guidellm.json").write_text(json.dumps({"benchmarks": [{"metrics": metrics, "duration": SECONDS}]}))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    found = Commands()

    @contextmanager
    def serving(command: Sequence[str], max_rows: int, max_tokens: int) -> Iterator[FakeServer]:
        yield FakeServer("ours" if "server.cli" in command else "plain")

    def run_load(url: str, arrivals: Sequence[Arrival], max_tokens: int) -> LoadTiming:
        assert url == "plain"
        return LoadTiming(1.0, 160, (), ())

    monkeypatch.setattr(by_tools, "serving", serving)
    monkeypatch.setattr(by_tools, "run_load", run_load)
    monkeypatch.setattr(servers, "_QUIET_EVERY_S", 0.001)
    monkeypatch.setattr("training.bench.tools.subprocess.run", found)
    return found


@pytest.fixture
def asked(tiny_probed_checkpoint: Path, tiny_base: str, prompt_file: Path) -> list[str]:
    where = ["--values", str(tiny_probed_checkpoint), "--base-folder", tiny_base, "--prompts", str(prompt_file)]
    return ["tools", *where, *PLAN]


def test_every_tool_loads_every_side_and_is_set_beside_plain_vllm(
    commands: Commands, asked: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "tools.json"
    result = CliRunner().invoke(bench.app, [*asked, "--out", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["rate"] == pytest.approx(0.25 * 160 / 10), "a quarter of what plain vLLM serves"
    sides = ["plain vLLM", "no weights", "exact", "fast", "hybrid"]
    figures = {(each["tool"], each["side"]): each for each in report["figures"]}
    assert set(figures) == {(tool, side) for tool in ("vllm bench serve", "guidellm") for side in sides}
    for tool in ("vllm bench serve", "guidellm"):
        assert figures[tool, "fast"]["first_ratio"]["value"] == pytest.approx(2.4)
        assert figures[tool, "no weights"]["gap_ratio"]["value"] == pytest.approx(1.2)
        assert figures[tool, "fast"]["first"] == {"p50": 24.0, "p95": 24.0, "p99": 24.0}
        assert figures[tool, "fast"]["tokens_per_s"] == pytest.approx(60)
    assert figures["guidellm", "fast"]["good_per_s"] == pytest.approx(0.5 * 6 / SECONDS)
    assert len(commands.run) == 2 * 2 * len(sides)
    asked_for = {(url, fields.get("scoring")) for url, fields in commands.run}
    assert asked_for == {("plain", None), ("ours", None), ("ours", "exact"), ("ours", "fast"), ("ours", "hybrid")}
    assert all(fields["objective_weights"] for _, fields in commands.run if "scoring" in fields)


def test_a_tool_that_loses_requests_or_fails_ends_the_measurement(commands: Commands, asked: list[str]) -> None:
    commands.lost = 1
    result = CliRunner().invoke(bench.app, asked)
    assert result.exit_code != 0 and "1 of 6 requests were not answered well" in " ".join(result.output.split())
    commands.lost, commands.status = 0, 3
    result = CliRunner().invoke(bench.app, asked)
    assert result.exit_code != 0 and "it said this" in " ".join(result.output.split())


def test_a_tool_that_is_not_there_is_named(
    asked: list[str], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(command: Sequence[str], **_: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("training.bench.tools.subprocess.run", missing)
    result = CliRunner().invoke(bench.app, asked)
    assert result.exit_code != 0 and "cannot be run: No such file" in " ".join(result.output.split())


class Completions(BaseHTTPRequestHandler):
    """Streams as many tokens as are asked for, and keeps what was asked."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        chunk = {"choices": [{"text": " a", "index": 0, "finish_reason": None}]}
        usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": body["max_tokens"]}}
        for each in (*[chunk] * body["max_tokens"], usage):
            self.wfile.write(b"data: " + json.dumps(each).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: Any) -> None: ...


@pytest.mark.slow
def test_vllms_load_generator_asks_for_weights_and_is_understood(tiny_base: str, tmp_path: Path) -> None:
    """The real one. Would catch a flag that another vLLM has not, and a field that it does not hand on."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(4 * (json.dumps({"prompt": "abc abc"}) + "\n"))
    fields = {"objective_weights": {"warmth": 0.5}, "scoring": "fast"}
    with ThreadingHTTPServer(("127.0.0.1", 0), Completions) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = FakeServer(f"http://127.0.0.1:{server.server_address[1]}")
        read = VllmBench().load(
            cast(servers.BenchServer, where), fields, ToolLoad(prompts, tiny_base, 4, 20.0, 8, 2000, 200, 0), tmp_path
        )
        server.shutdown()
    assert len(Completions.asked) >= 4 and read.tokens_per_s > 0 and read.first["p50"] > 0
    assert all(each["objective_weights"] == {"warmth": 0.5} and each["max_tokens"] == 8 for each in Completions.asked)
