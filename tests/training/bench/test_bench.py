"""`mavis bench` around fake engines: pairs alternate, a slowing machine cancels out, tokens are compared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner, Result

from training.bench import bench
from training.bench.prompts import drawn
from training.bench.sides import Side
from training.bench.worker import BenchWorker, Job, Timing, job_requests
from training.errors import WorkerDiedError
from training.prompts.chat import ChatPrompt
from training.recipe import EngineRecipe
from valuemodels.contract.guidance import Guidance


class FakeWorker:
    """An engine whose machine slows down with every job; guided jobs take four times as long."""

    jobs: ClassVar[list[tuple[str, Job]]] = []
    differs = False

    def __init__(self, base: str, engine: EngineRecipe, guide: object) -> None:
        self._name = "ours" if guide else "plain"

    def __enter__(self) -> "FakeWorker":
        return self

    def __exit__(self, *_: object) -> None: ...

    def wait_until_ready(self) -> None: ...

    def time(self, job: Job) -> Timing:
        FakeWorker.jobs.append((self._name, job))
        rows = len(job.prompts)
        speed = 100.0 * rows * 0.999 ** len(FakeWorker.jobs) / (4 if job.side.guidance else 1)
        other = FakeWorker.differs and self._name == "ours"
        return Timing(speed, ((job.seed, int(other)),) * rows)


@pytest.fixture
def call(
    tiny_probed_checkpoint: Path, tiny_base: str, prompt_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    monkeypatch.setattr(bench, "BenchWorker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "jobs", [])

    def invoke(*arguments: str) -> Result:
        where = ["--values", str(tiny_probed_checkpoint), "--base-folder", tiny_base, "--prompts", str(prompt_file)]
        return CliRunner().invoke(bench.app, [*where, *arguments])

    return invoke


def test_report_has_both_comparisons_for_each_batch(call: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    result = call("--out", str(out))
    assert result.exit_code == 0, result.output
    comparisons = json.loads(out.read_text())["comparisons"]
    assert [(c["rows"], c["what"]) for c in comparisons] == [
        (rows, what)
        for rows in (1, 8, 32, 128)
        for what in (
            "no weights / plain vLLM",
            "exact / no weights",
            "fast / no weights",
            "hybrid / no weights",
            "exact, candidate_min_p 0.01 / no weights",
            *(["fast, own weights in every row / fast"] if rows > 1 else []),
        )
    ]
    for comparison in comparisons:
        expected = 0.25 if "/ no weights" in comparison["what"] else 1.0
        assert comparison["ratio"]["value"] == pytest.approx(expected, rel=0.01)
    assert [c["same_tokens"] for c in comparisons if c["rows"] == 8] == [True, None, None, None, None, None]


def test_batches_are_the_operators_choice_and_rows_can_have_weights_of_their_own(call: Callable[..., Result]) -> None:
    assert call("--batch", "4", "--guided-pairs", "2").exit_code == 0
    assert {len(job.prompts) for _, job in FakeWorker.jobs} == {4}
    own = next(job for _, job in FakeWorker.jobs if job.side.own_weights)
    asked = [request.guidance.weights for request in job_requests(own) if request.guidance]
    assert [set(weights.values()) for weights in asked] == [{0.125}, {0.25}, {0.375}, {0.5}]


def test_one_side_is_measured_with_what_it_is_compared_with(call: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    own = "fast, own weights in every row"
    assert call("--batch", "4", "--side", own, "--out", str(out)).exit_code == 0
    compared = [each["what"] for each in json.loads(out.read_text())["comparisons"]]
    assert compared == ["no weights / plain vLLM", "fast / no weights", f"{own} / fast"]


def test_a_side_that_there_is_not_is_refused_with_those_there_are(call: Callable[..., Result]) -> None:
    result = call("--side", "quick")
    assert result.exit_code == 2 and not FakeWorker.jobs
    assert "--side: got 'quick', allowed is 'exact', 'fast'" in " ".join(result.output.split())


def test_a_step_is_timed_beside_its_products(tiny_probed_checkpoint: Path, tiny_base: str, tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    arguments = ["--values", str(tiny_probed_checkpoint), "--base-folder", tiny_base, "--out", str(out)]
    small = ["--repeats", "1", "--max-rows", "8", "--max-context", "100"]
    result = CliRunner().invoke(bench.app, ["step", *arguments, *small])
    assert result.exit_code == 0, result.output
    steps = json.loads(out.read_text())["steps"]
    assert {s["shape"]["objectives"] for s in steps} == {1, 2, 4, 8} and {s["shape"]["rows"] for s in steps} == {1, 8}
    assert all(s["step"] > 0 and s["over_limit"] == pytest.approx(s["step"] / s["matmuls"]) for s in steps)


def test_pairs_share_their_job_and_take_turns_in_going_first(call: Callable[..., Result]) -> None:
    call("--pairs", "4", "--guided-pairs", "2")
    batch_of_1 = [(name, job) for name, job in FakeWorker.jobs if len(job.prompts) == 1 and job.max_tokens == 32]
    against_plain = batch_of_1[:8]
    assert [name for name, _ in against_plain] == ["ours", "plain", "plain", "ours"] * 2
    assert all(against_plain[i][1] == against_plain[i + 1][1] for i in range(0, 8, 2))
    seeds = [job.seed for _, job in batch_of_1[8:]]
    assert len(set(seeds)) == len(seeds)
    assert len({job.prompts for _, job in batch_of_1[8:]}) > len(seeds) / 2, "drawn anew for every job"


def test_tokens_that_differ_from_plain_vllm_are_shown(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(FakeWorker, "differs", True)
    out = tmp_path / "bench.json"
    assert call("--out", str(out), "--pairs", "2").exit_code == 0
    assert json.loads(out.read_text())["comparisons"][0]["same_tokens"] is False


def test_jobs_are_made_of_distinct_prompts_and_generations_and_are_repeatable(texts: list[ChatPrompt]) -> None:
    side = Side("fast", "no weights", Guidance("bench", weights={"a": 1.0}))
    job = Job(tuple(drawn(texts, 8, seed=3)), 4, 3, side)
    assert job.prompts == tuple(drawn(texts, 8, seed=3)) != tuple(drawn(texts, 8, seed=4))
    requests = job_requests(job)
    assert requests == job_requests(job)
    assert len({request.prompt_token_ids for request in requests}) == 8
    assert len({request.guidance.generation_id for request in requests if request.guidance}) == 8
    assert len(drawn(texts, 100, seed=1)) == 100, "more than there are"


@pytest.mark.engine
def test_engine_that_dies_at_its_start_is_an_error_and_not_a_hang(tmp_path: Path, capfd: Any) -> None:
    worker = BenchWorker(str(tmp_path / "no-model"), EngineRecipe(), None)
    with worker, pytest.raises(WorkerDiedError, match="process ended"):
        worker.wait_until_ready()
