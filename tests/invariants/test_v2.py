"""What V2 must do as V1 does, and scheduling ahead as it is without. All other tests here run on both runners, too.

Every test says in a line which bug it would catch.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from tests.invariants.conftest import only_float32, tiny_guide
from tests.invariants.engine import CROWD, IS_V2, generate, one_by_one, open_engine, preemptions, read_traces, unhurried
from tests.invariants.kit import assert_trace_is_exact, guided, request
from tests.invariants.test_changes import NEW, change
from tests.invariants.test_fast_engine import assert_trace_is_the_probes
from valuemodels.contract.guidance import ChoiceName, Scoring
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.fast import FastScorer

pytestmark = [pytest.mark.engine, pytest.mark.skipif(not IS_V2, reason="compares V2 with V1")]

SCORINGS: list[Scoring] = ["fast", "exact", "hybrid"]


@only_float32
def test_v2_answers_as_v1_does_token_for_token(
    engine: Any, engine_base: str, engine_checkpoint: Path, tmp_path: Path
) -> None:
    """Catches anything that one adapter tells the guide and the other does not: chunks, candidates, budgets."""
    kinds: list[tuple[int, Scoring, dict[str, Any]]] = [
        (3, "fast", {}),
        (60, "exact", {}),
        (100, "hybrid", {}),
        (20, "fast", {"kl_budget": 0.2}),
        (20, "exact", {"candidates": 5, "beta": 2.0}),
    ]
    asked = [request(length, 400 + length, guided(scoring=scoring, **fields)) for length, scoring, fields in kinds]
    wire = [{**r, "guidance": r["guidance"].to_wire()} for r in asked]
    (tmp_path / "requests.json").write_text(json.dumps(wire))
    (tmp_path / "guide.json").write_text(json.dumps(tiny_guide(engine_base, engine_checkpoint).to_wire()))
    files = [str(tmp_path / name) for name in ("requests.json", "answers.json")]
    command = [sys.executable, "-m", "tests.invariants.engine", engine_base, *files, "float32"]
    ours = {"TRITON_INTERPRET", "VLLM_USE_V2_MODEL_RUNNER"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    subprocess.run([*command, str(tmp_path / "guide.json")], check=True, timeout=300, env=environment)
    assert (one_by_one(engine, asked) == json.loads((tmp_path / "answers.json").read_text())) is True


@pytest.fixture(scope="session")
def ahead(engine_base: str, engine_checkpoint: Path) -> Any:
    """An engine that schedules a step before the tokens of the one before are known."""
    engine = open_engine(engine_base, tiny_guide(engine_base, engine_checkpoint), is_async=True)
    assert engine.llm_engine.vllm_config.scheduler_config.async_scheduling
    return engine


@only_float32
def test_scheduling_ahead_changes_no_token_and_no_value(
    engine: Any, ahead: Any, uncached: ValueModel, base_model: LlamaForCausalLM, fast: FastScorer
) -> None:
    """Catches tokens that are read before they are there, late rows that spoil a trace, and lost preemptions."""
    asked = [request(40, 40 + i, guided(scoring=SCORINGS[i % 2]), max_tokens=60) for i in range(CROWD)]
    asked.insert(3, request(30, 48))
    before = preemptions(ahead)
    answers = generate(ahead, asked)
    assert preemptions(ahead) > before, "the test needs an engine short of memory"
    assert (unhurried(engine, [without_id(r) for r in asked]) == answers) is True
    for r, (output,) in zip(asked, answers, strict=True):
        if "guidance" in r:
            name = r["guidance"].generation_id
            trace = read_traces(ahead, name)[name]["0:0"]
            if r["guidance"].scoring == "exact":
                assert_trace_is_exact(uncached, r["prompt"], output, trace, every=4)
            else:
                assert_trace_is_the_probes(base_model, fast, r["prompt"], output, trace)


@only_float32
def test_choices_and_changes_hold_while_it_is_scheduled_ahead(engine: Any, ahead: Any) -> None:
    """Catches choices that are taken for one another, and changes that are lost where a request has not begun."""
    guidance = guided(weights={}, trace="totals", scoring="fast")
    asked = [request(18, 61, replace(guidance, prompt_index=prompt)) for prompt in range(2)]
    change(ahead, guidance.generation_id, ChoiceName(1, 0), **NEW)
    assert generate(ahead, asked) == generate(
        engine, [request(18, 61), request(18, 61, guided(weights=NEW, scoring="fast"))]
    )


def without_id(asked: dict[str, Any]) -> dict[str, Any]:
    """The same, as another generation."""
    if "guidance" not in asked:
        return asked
    fields = {key: value for key, value in asdict(asked["guidance"]).items() if key in ("weights", "scoring")}
    return {**asked, "guidance": guided(**fields)}
