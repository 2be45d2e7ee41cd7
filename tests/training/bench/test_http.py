"""`mavis bench http` around servers that take a known time: loads, turns, ratios, and which server gets what."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from training.bench import bench, http, servers
from training.bench.load import Arrival, LoadTiming

PLAN = ["--batch", "4", "--rounds", "2", "--requests", "6", "--max-tokens", "10", "--long-prompt", "300"]


@dataclass
class FakeServer:
    """Half as fast with weights; plain vLLM is a tenth faster than ours without, on three cores."""

    url: str
    model: str = "m"
    start_s: float = 3.0
    runs: bool = True
    spent_s: ClassVar[dict[str, float]] = defaultdict(float)

    def memory_gib(self) -> float:
        return 1.5

    def cpu_s(self) -> float:
        assert self.runs
        return 7.0 + self.spent_s[self.url]

    def suspend(self) -> None:
        self.runs = False

    def resume(self) -> None:
        self.runs = True


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Sequence[Arrival]]]:
    seen: list[tuple[str, Sequence[Arrival]]] = []
    monkeypatch.setattr(FakeServer, "spent_s", defaultdict(float))

    @contextmanager
    def serving(command: Sequence[str], max_rows: int, max_tokens: int) -> Iterator[FakeServer]:
        assert max_rows == 6 and max_tokens == 340
        yield FakeServer("ours" if "server.cli" in command else "plain")

    def run_load(url: str, arrivals: Sequence[Arrival], max_tokens: int) -> LoadTiming:
        seen.append((url, arrivals))
        gap = 0.01 / (1.1 if url == "plain" else 1.0) * (2 if "objective_weights" in arrivals[0].body else 1)
        tokens = max_tokens * len(arrivals)
        FakeServer.spent_s[url] += tokens * gap * (3 if url == "plain" else 1)
        return LoadTiming(tokens * gap, tokens, (gap,) * len(arrivals), (gap,) * (tokens - len(arrivals)))

    monkeypatch.setattr(http, "serving", serving)
    monkeypatch.setattr(http, "run_load", run_load)
    monkeypatch.setattr(servers, "_QUIET_EVERY_S", 0.001)
    return seen


def test_every_side_is_loaded_in_turns_and_set_beside_its_reference(
    loads: list[tuple[str, Sequence[Arrival]]],
    tiny_probed_checkpoint: Path,
    tiny_base: str,
    prompt_file: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "http.json"
    where = ["--values", str(tiny_probed_checkpoint), "--base-folder", tiny_base, "--prompts", str(prompt_file)]
    plan = [*PLAN, "--out", str(out)]
    result = CliRunner().invoke(bench.app, ["http", *where, *plan])
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(out.read_text())
    assert report["servers"]["mavis"] == {"start_s": 3.0, "memory_gib": 1.5}
    by_side = {each["side"]: each for each in report["figures"] if each["load"] == "4 at once"}
    assert by_side["plain vLLM"]["ratio"] is None and by_side["plain vLLM"]["cpu_ratio"] is None
    assert by_side["no weights"]["cpu_ratio"]["value"] == pytest.approx(3 / 1.1)
    assert by_side["fast"]["cpu_ratio"]["value"] == pytest.approx(0.5)
    assert by_side["no weights"]["ratio"]["value"] == pytest.approx(1 / 1.1)
    assert by_side["fast"]["ratio"]["value"] == by_side["exact"]["ratio"]["value"] == pytest.approx(0.5)
    own = by_side["fast, own weights in every row"]
    assert own["reference"] == "fast" and own["ratio"]["value"] == pytest.approx(1.0)
    assert by_side["fast"]["gap_p50"] == pytest.approx(20.0) and by_side["fast"]["first_p99"] == pytest.approx(20.0)
    assert by_side["no weights"]["gap_max"] == pytest.approx(10.0)
    poisson = [each for each in report["figures"] if each["load"].startswith("Poisson, 2.5 requests/s")]
    assert len(poisson) == 7 and all(each["ratio"] is None for each in poisson)
    rounds = [[url for url, _ in loads[start : start + 7]] for start in (7, 14)]
    assert rounds[0] != rounds[1] and all(urls.count("plain") == 1 for urls in rounds), "in another order"


def side_of(url: str, arrivals: Sequence[Arrival]) -> str:
    """Which side asks so, by what its requests hold."""
    bodies = [dict(arrival.body) for arrival in arrivals]
    weights = {json.dumps(body.get("objective_weights")) for body in bodies}
    if weights == {"null"}:
        return "plain" if url == "plain" else "nothing"
    if len(weights) > 1:
        assert len(weights) == len(bodies)
        return "own"
    return "pruned" if bodies[0].get("candidate_min_p") == 0.01 else str(bodies[0]["scoring"])


def test_rows_ask_for_what_their_side_says(
    loads: list[tuple[str, Sequence[Arrival]]], tiny_probed_checkpoint: Path, tiny_base: str, prompt_file: Path
) -> None:
    where = ["--values", str(tiny_probed_checkpoint), "--base-folder", tiny_base, "--prompts", str(prompt_file)]
    assert CliRunner().invoke(bench.app, ["http", *where, *PLAN]).exit_code == 0
    by_side = {side_of(url, arrivals): arrivals for url, arrivals in loads[7:14]}
    assert set(by_side) == {"plain", "nothing", "exact", "fast", "hybrid", "pruned", "own"}
    asked = {json.dumps([[a.body["prompt"], a.body["seed"]] for a in arrivals]) for arrivals in by_side.values()}
    assert len(asked) == 1, "every side of a round has the same prompts and seeds"
    salts = [{a.body["cache_salt"] for a in arrivals} for _, arrivals in loads]
    assert all(len(each) == 1 for each in salts) and len(set[object]().union(*salts)) == len(loads)
    streams = [arrivals for _, arrivals in loads[-7:]]
    assert all([a.is_watched for a in arrivals] == [True] * 4 + [False] for arrivals in streams)
    assert all(len(arrivals[4].body["prompt"]) == 300 for arrivals in streams)  # type: ignore[arg-type]
    assert all(arrivals[4].at_s > max(a.at_s for a in arrivals[:4]) for arrivals in streams)
    assert all(arrivals[4].body.get("scoring") == arrivals[3].body.get("scoring") for arrivals in streams)
