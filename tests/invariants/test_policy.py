"""The operator's policy on the real engine: floors that nothing crosses, and values that must not be missing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.invariants.engine import generate, read_traces
from tests.invariants.kit import guided, request
from valuemodels.guide.value_guide import ValueGuide
from valuemodels.scoring.scorer import ScoringBatch

pytestmark = pytest.mark.engine

BROKEN_FROM = 3


@pytest.fixture
def guide(engine: Any) -> ValueGuide:
    """The guide inside the engine, which runs in this process."""
    found: ValueGuide = engine.collective_rpc(lambda worker: worker._mavis_processor().guide)[0]
    return found


def broken_for(victim: str, score: Callable[[ScoringBatch], Tensor]) -> Callable[[ScoringBatch], Tensor]:
    """A scorer that raises wherever this generation is in the batch, from some token on."""

    def broken(batch: ScoringBatch) -> Tensor:
        if any(row.generation_id == victim and len(row.output) >= BROKEN_FROM for row in batch.rows):
            raise RuntimeError("this row cannot be read")
        return score(batch)

    return broken


def test_nothing_that_a_request_says_takes_an_objective_below_its_floor(
    engine: Any, guide: ValueGuide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches floors that beta, a KL budget or silence leads around."""
    at_the_floor = generate(engine, [request(20, 70, guided(weights={"warmth": 0.5}))])
    plain = generate(engine, [request(20, 70)])
    monkeypatch.setattr(guide, "policy", replace(guide.policy, floors={"warmth": 0.5}))
    cases: tuple[dict[str, Any], ...] = (
        {"beta": 0.0},
        {"weights": {}},
        {"kl_budget": 1e-12},
        {"weights": {"warmth": 0.5, "brevity": 0.0}},
    )
    for asked in cases:
        fields: dict[str, Any] = {"weights": {"warmth": 2.0}, **asked}
        assert generate(engine, [request(20, 70, guided(**fields))]) == at_the_floor != plain
    assert generate(engine, [request(20, 70)]) == at_the_floor, "a request without a word of ours, too"


def test_a_row_that_cannot_be_scored_falls_back_alone(
    engine: Any, guide: ValueGuide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches one bad row that switches guidance off for its batch, and blocks that keep silent about it."""
    fine, victim = request(20, 71, guided()), request(22, 72, guided())
    names = [asked["guidance"].generation_id for asked in (fine, victim)]
    alone = generate(engine, [fine])
    read_traces(engine, names[0])
    (scorer,) = guide.scorers["exact"]
    monkeypatch.setattr(scorer, "score", broken_for(names[1], scorer.score))
    answers = generate(engine, [fine, victim])
    traces = read_traces(engine, *names)
    assert answers[:1] == alone and not any(traces[names[0]]["0:0"]["fell_back"])
    fell_back = traces[names[1]]["0:0"]["fell_back"]
    assert fell_back == [False] * BROKEN_FROM + [True] * (len(answers[1][0]) - BROKEN_FROM)


def test_a_value_that_must_not_be_missing_ends_its_sequence_and_nobody_elses(
    engine: Any, guide: ValueGuide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a single token of the base's own that slips out where the operator said `abort`."""
    fine, victim = request(20, 73, guided()), request(22, 74, guided())
    names = [asked["guidance"].generation_id for asked in (fine, victim)]
    alone, whole = generate(engine, [fine]), generate(engine, [victim])
    read_traces(engine, *names)
    (scorer,) = guide.scorers["exact"]
    monkeypatch.setattr(scorer, "score", broken_for(names[1], scorer.score))
    monkeypatch.setattr(guide, "_aborts", torch.tensor([True, False]))
    answers = generate(engine, [fine, victim])
    traces = read_traces(engine, *names)
    assert answers[:1] == alone and not traces[names[0]]["0:0"]["is_aborted"]
    said = answers[1][0]
    assert said[:BROKEN_FROM] == whole[0][0][:BROKEN_FROM] and len(set(said[BROKEN_FROM:])) == 1
    assert traces[names[1]]["0:0"]["is_aborted"]
