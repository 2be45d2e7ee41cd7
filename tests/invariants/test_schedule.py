"""Schedules on the real engine. Every test says which bug it would catch."""

from typing import Any

import pytest

from tests.invariants.conftest import only_float32
from tests.invariants.engine import CROWD, generate, preemptions, read_traces, unhurried
from tests.invariants.kit import guided, request
from valuemodels.contract.guidance import ScheduledChange

pytestmark = pytest.mark.engine

BEFORE: dict[str, Any] = {"warmth": 1.0, "brevity": -0.5}
AFTER: dict[str, Any] = {"warmth": -1.0, "brevity": 0.75}


def at(token: int, **weights: float) -> ScheduledChange:
    return ScheduledChange(token, {"objective_weights": weights})


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "sampled"])
def test_tokens_before_an_entry_are_as_without_it_and_those_after_as_with_its_weights(
    engine: Any, sampling: dict[str, Any]
) -> None:
    """Catches an entry that holds a token early or late: what is sampled at its token is what its weights sample."""
    guidance = guided(weights=BEFORE, schedule=(at(10, **AFTER),))
    [[answer]] = generate(engine, [request(18, 70, guidance, **sampling)])
    [[before]] = generate(engine, [request(18, 70, guided(weights=BEFORE), **sampling)])
    assert answer[:10] == before[:10] and answer != before
    settings = read_traces(engine, guidance.generation_id)[guidance.generation_id]["0:0"]["settings"]
    assert settings == [[0, list(BEFORE.values()), 1.0, None], [10, list(AFTER.values()), 1.0, None]]
    # Without sampling's own state, the rest is what a request with the new weights goes on with.
    if not sampling:
        asked = request(18, 70, guided(weights=AFTER))
        [[rest]] = generate(engine, [{**asked, "prompt": asked["prompt"] + answer[:10], "max_tokens": 14}])
        assert rest == answer[10:]


def test_a_plain_beginning_is_plain_vllms(engine: Any) -> None:
    """Catches a tilt before the first entry, and a row that is not followed while it is plain."""
    guidance = guided(weights={}, trace="totals", schedule=(at(8, **AFTER),))
    [[answer]] = generate(engine, [request(18, 71, guidance)])
    [[plain]] = generate(engine, [request(18, 71)])
    assert answer[:8] == plain[:8] and answer != plain
    settings = read_traces(engine, guidance.generation_id)[guidance.generation_id]["0:0"]["settings"]
    assert [token for token, *_ in settings] == [0, 8]


@only_float32
def test_every_choice_follows_its_own_entries(engine: Any) -> None:
    """Catches choices that are followed alike, or by another's entries: each is as a request of its own is."""
    entries = (
        ScheduledChange(0, {"objective_weights": AFTER}, choice=1),
        ScheduledChange(6, {"objective_weights": AFTER}, choice=0),
        ScheduledChange(12, {"beta": 0.5}),
    )
    guidance = guided(weights=BEFORE, schedule=entries, n=3)
    [answers] = generate(engine, [request(12, 72, guidance, n=3, temperature=1.0, seed=5)])
    traces = read_traces(engine, guidance.generation_id)[guidance.generation_id]
    for index, answer in enumerate(answers):
        own = tuple(ScheduledChange(e.from_token, e.said) for e in entries if e.choice in (None, index))
        alone = guided(weights=BEFORE, schedule=own)
        # vLLM gives the choices of a request seeds that follow each other.
        assert generate(engine, [request(12, 72, alone, temperature=1.0, seed=5 + index)]) == [[answer]]
        settings = read_traces(engine, alone.generation_id)[alone.generation_id]["0:0"]["settings"]
        assert traces[f"0:{index}"]["settings"] == settings


@only_float32
def test_a_schedule_goes_on_after_a_preemption(engine: Any) -> None:
    """Catches entries that are counted in steps, not in tokens, and a request that begins its schedule again."""
    entries = tuple(at(token, **(AFTER if token % 20 else BEFORE)) for token in range(0, 60, 10))
    asked = [request(40, 80 + i, guided(schedule=entries), max_tokens=60) for i in range(CROWD)]
    expected = unhurried(engine, asked)
    before = preemptions(engine)
    answers = generate(engine, asked)
    assert preemptions(engine) > before, "the test needs an engine short of memory"
    assert (answers == expected) is True
