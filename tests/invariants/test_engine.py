"""What must hold on the real engine. Every test says in a line which bug it would catch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.invariants.conftest import only_float32
from tests.invariants.engine import (
    BATCHED_TOKENS,
    CROWD,
    IS_V2,
    generate,
    guide_of,
    one_by_one,
    preemptions,
    read_traces,
    unhurried,
)
from tests.invariants.kit import assert_trace_is_exact, guided, request
from valuemodels.models.trunk import ValueModel

pytestmark = pytest.mark.engine


def test_without_weights_the_engine_is_plain_vllm_token_for_token(
    engine: Any, engine_base: str, arithmetic: tuple[str, int], tmp_path: Path
) -> None:
    """Catches any touch of unguided rows: truncation to the candidates, changed logits, a disturbed random stream."""
    sampling: dict[str, Any] = {"temperature": 1.0, "max_tokens": 6 if IS_V2 else 10}
    requests = [request(3 + 10 * i, i, seed=i, **sampling) for i in range(4)]
    requests += [request(12, 50, seed=9, n=3, **sampling), request(7, 51, temperature=0.0)]
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    command = [sys.executable, "-m", "tests.invariants.engine", engine_base]
    files = [str(tmp_path / "requests.json"), str(tmp_path / "answers.json")]
    subprocess.run([*command, *files, arithmetic[0]], check=True, timeout=300)
    plain = json.loads(Path(tmp_path / "answers.json").read_text())

    def ask(**fields: Any) -> list[list[list[int]]]:
        return one_by_one(engine, [{**r, "guidance": guided(**fields)} for r in requests])

    # Compared as booleans: pytest's explanation of two long nested lists takes minutes.
    assert (one_by_one(engine, requests) == plain) is True
    assert (ask(weights={"warmth": 0.0, "brevity": 0.0}, trace="totals") == plain) is True
    assert (ask(beta=0.0, trace="totals") == plain) is True
    assert (ask(weights={"warmth": 0.0}, trace="values") == plain) is True, "watching values changed the answer"


def test_a_neighbours_candidates_never_change_mine(engine: Any) -> None:
    """Catches candidates taken by the batch's largest k: where logits tie at a row's last rank, others come out.

    Both batches have the same rows, so that the base's logits are the same to the last bit.
    """
    mine, neighbour = request(20, 200, guided(candidates=40), max_tokens=12), request(20, 201, max_tokens=12)
    seen = []
    for beside in (None, guided(candidates=64), guided(candidates=3, kl_budget=0.1)):
        asked = {**mine, "guidance": guided(candidates=40)}
        generate(engine, [asked, neighbour if beside is None else {**neighbour, "guidance": beside}])
        generation_id = asked["guidance"].generation_id
        trace = read_traces(engine, generation_id)[generation_id]["0:0"]
        seen.append([[entry.token_id for entry in table] for table in trace["candidates"]])
    assert (seen[1] == seen[0]) is True and (seen[2] == seen[0]) is True


def test_a_request_alone_is_the_request_in_a_mixed_batch(engine: Any) -> None:
    """Catches rows that leak into each other: a neighbour's weights, strength, candidates or cache."""
    requests = [
        request(20, 1, guided()),
        request(33, 2, guided(weights={"warmth": -1.0}, beta=2.0)),
        request(9, 3),
        request(15, 4, guided(candidates=5)),
        request(27, 5, guided(kl_budget=0.05)),
        request(6, 6, guided(weights={"warmth": 0.0}, trace="values")),
    ]
    together = generate(engine, requests)
    for asked, answer in zip(requests, together, strict=True):
        assert generate(engine, [asked]) == [answer]


def test_values_in_the_engine_are_those_of_an_uncached_forward(engine: Any, uncached: ValueModel) -> None:
    """Catches a wrong prefix, position, cache row or candidate in the served path."""
    asked = [request(4 + 5 * i, 20 + i, guided(), temperature=1.0, seed=i) for i in range(4)]
    answers = generate(engine, asked)
    for r, ((output,),) in zip(asked, [(a,) for a in answers], strict=True):
        trace = read_traces(engine, r["guidance"].generation_id)[r["guidance"].generation_id]["0:0"]
        assert_trace_is_exact(uncached, r["prompt"], output, trace)


def test_a_prompt_in_chunks_gives_the_values_of_the_whole_prompt(engine: Any, uncached: ValueModel) -> None:
    """Catches tilting or tracing on the rows of unfinished prompts."""
    asked = [request(3 * BATCHED_TOKENS + 7, 30, guided()), request(10, 31, guided())]
    for r, (output,) in zip(asked, generate(engine, asked), strict=True):
        trace = read_traces(engine, r["guidance"].generation_id)[r["guidance"].generation_id]["0:0"]
        assert len(trace["kl"]) == len(output)
        assert_trace_is_exact(uncached, r["prompt"], output, trace)


def test_a_preempted_request_goes_on_as_if_it_had_never_been_preempted(
    engine: Any, uncached: ValueModel, arithmetic: tuple[str, int]
) -> None:
    """Catches caches that survive a preemption wrongly, and traces that lose or double tokens over it.

    What it says undisturbed is compared in float32 only: see `only_float32`.
    """
    before = preemptions(engine)
    asked = [request(40, 40 + i, guided(), max_tokens=60) for i in range(CROWD)]
    answers = generate(engine, asked)
    assert preemptions(engine) > before, "the test needs an engine short of memory"
    for r, (output,) in zip(asked, answers, strict=True):
        trace = read_traces(engine, r["guidance"].generation_id)[r["guidance"].generation_id]["0:0"]
        assert_trace_is_exact(uncached, r["prompt"], output, trace, every=4)
    assert arithmetic[0] != "float32" or (unhurried(engine, asked) == answers) is True


def test_a_reused_slot_is_as_good_as_a_fresh_one(engine: Any) -> None:
    """Catches state that outlives its request."""
    asked = request(18, 60, guided())
    first = generate(engine, [asked])
    for seed in range(2):
        many = [request(25, 70 + seed, guided(weights={"brevity": 2.0}), max_tokens=8) for _ in range(8)]
        generate(engine, many)
        assert generate(engine, [asked]) == first


def test_every_choice_of_a_request_has_its_own_trace(engine: Any, uncached: ValueModel) -> None:
    """Catches choices of one request that share a cache entry or a trace."""
    asked = request(14, 80, guided(), n=3, temperature=1.0, seed=5)
    (outputs,) = generate(engine, [asked])
    traces = read_traces(engine, asked["guidance"].generation_id)[asked["guidance"].generation_id]
    assert len({tuple(output) for output in outputs}) > 1
    for i, output in enumerate(outputs):
        assert_trace_is_exact(uncached, asked["prompt"], output, traces[f"0:{i}"])


def test_a_kl_budget_holds_at_every_token_and_lowers_the_total(engine: Any) -> None:
    """Catches budgets applied to the wrong row, or only to the first step."""
    free, bounded = request(16, 90, guided(beta=5.0)), request(16, 90, guided(beta=5.0, kl_budget=0.1))
    generate(engine, [free, bounded])
    kl = [
        read_traces(engine, r["guidance"].generation_id)[r["guidance"].generation_id]["0:0"]["kl"]
        for r in (free, bounded)
    ]
    assert max(kl[0]) > 0.1 and max(kl[1]) <= 0.1 + 1e-4


@only_float32
@pytest.mark.skipif(IS_V2, reason="says nothing of the runner, and takes long where kernels are interpreted")
def test_more_weight_buys_more_value(engine: Any) -> None:
    """Catches a tilt of the wrong sign, or one that sampling never sees."""
    gains = {}
    for weight in (-1.0, 0.0, 1.0):
        asked = [
            request(10, 100 + i, guided(weights={"warmth": weight}, trace="values"), temperature=1.0, seed=i)
            for i in range(12)
        ]
        one_by_one(engine, asked)
        traces = [read_traces(engine, r["guidance"].generation_id) for r in asked]
        totals = [
            sum(v[0] for v in trace["0:0"]["advantages"] if v is not None) for t in traces for trace in t.values()
        ]
        gains[weight] = sum(totals) / len(totals)
    assert gains[-1.0] < gains[0.0] - 0.2 and gains[1.0] > gains[0.0] + 0.2


def test_nan_values_fall_back_to_the_base_and_leave_others_alone(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a NaN that reaches the sampler, or that takes the whole batch down with it."""
    plain, other = request(11, 120), request(13, 121, guided())
    expected_plain, expected_other = generate(engine, [plain])[0], generate(engine, [other])[0]
    scorer = guide_of(engine).scorers["exact"][0]
    honest = scorer.score

    def broken(batch: Any) -> Any:
        values = honest(batch)
        for r, row in enumerate(batch.rows):
            if list(row.prompt[:11]) == plain["prompt"]:
                values[r, 0] = torch.nan
        return values

    monkeypatch.setattr(scorer, "score", broken)
    before = engine.collective_rpc("mavis_stats")[0]["value_fallback_rows"]
    answers = generate(engine, [{**plain, "guidance": guided()}, other])
    assert answers == [expected_plain, expected_other]
    assert engine.collective_rpc("mavis_stats")[0]["value_fallback_rows"] == before + 24
