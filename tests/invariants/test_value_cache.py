"""The value cache on the real engine: shared prefixes, pressure, and candidates that are left out."""

import math
from dataclasses import replace
from typing import Any

import pytest

from tests.invariants.conftest import only_float32
from tests.invariants.engine import generate, guide_of, read_traces
from tests.invariants.kit import assert_trace_is_exact, guided, prompt, request
from valuemodels.models.trunk import ValueModel

pytestmark = pytest.mark.engine


def trace_of(engine: Any, asked: dict[str, Any], choice: int = 0) -> dict[str, Any]:
    name = asked["guidance"].generation_id
    found: dict[str, Any] = read_traces(engine, name)[name][f"0:{choice}"]
    return found


def cache_of(engine: Any) -> Any:
    scorer: Any = guide_of(engine).scorers["exact"][0]
    return scorer.cache


@only_float32
def test_what_prompts_begin_with_is_shared_and_values_stay_exact(engine: Any, uncached: ValueModel) -> None:
    """Catches a shared block that one of its holders writes to, or that stands for other tokens."""
    system = prompt(40, 500)
    asked = [{**request(0, 0, guided()), "prompt": system + prompt(5 + i, 501 + i)} for i in range(4)]
    before = cache_of(engine).shared_tokens
    answers = generate(engine, asked)
    assert cache_of(engine).shared_tokens >= before + 3 * 32
    for r, (output,) in zip(asked, answers, strict=True):
        assert_trace_is_exact(uncached, r["prompt"], output, trace_of(engine, r))


@only_float32
def test_nothing_is_shared_with_a_request_of_another_salt(engine: Any) -> None:
    """Catches a salt that gets lost on its way to the cache."""
    text = prompt(40, 510)

    def shared(salt: str | None) -> int:
        before = cache_of(engine).shared_tokens
        generate(engine, [{**request(0, 0, replace(guided(), cache_salt=salt)), "prompt": text}])
        return int(cache_of(engine).shared_tokens - before)

    assert [shared(salt) for salt in (None, "mine", "yours", "mine", None)] == [0, 0, 0, 32, 32]


@only_float32
def test_a_cache_far_too_small_costs_time_and_never_a_value(
    engine: Any, uncached: ValueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches blocks that are taken from a sequence that is being scored, and a budget that does not hold."""
    cache = cache_of(engine)
    monkeypatch.setattr(cache, "capacity", cache._fresh + 1)
    spare = 9
    borrowed = cache.borrow(cache.capacity - spare, ())
    evictions = cache.evictions
    asked = [request(20 + 7 * i, 520 + i, guided()) for i in range(4)]
    try:
        answers = generate(engine, asked)
    finally:
        cache.give_back(borrowed)
    assert cache.evictions > evictions and cache._fresh <= cache.capacity
    for r, (output,) in zip(asked, answers, strict=True):
        assert_trace_is_exact(uncached, r["prompt"], output, trace_of(engine, r))


@only_float32
def test_unlikely_candidates_are_left_out_and_the_others_are_exact(engine: Any, uncached: ValueModel) -> None:
    """Catches pruning at another temperature, and a trunk that misses the tokens of steps with nothing to choose."""
    asked = request(18, 540, guided(candidate_min_p=0.3), temperature=0.7, seed=3)
    ((output,),) = generate(engine, [asked])
    trace = trace_of(engine, asked)
    counts = [len(table) for table in trace["candidates"]]
    assert 1 in counts and max(counts) > 1, "the test needs steps of both kinds"
    for table in trace["candidates"]:
        best = max(candidate.logprob for candidate in table)
        assert all(candidate.logprob >= best + math.log(0.3) - 1e-5 for candidate in table)
    assert all((dropped > 0) == (count < 40) for dropped, count in zip(trace["dropped"], counts, strict=True))
    several = {at for at, count in enumerate(counts) if count > 1}
    assert {at for at, levels in enumerate(trace["levels"]) if levels is not None} == several
    trace["candidates"] = [table if len(table) > 1 else [] for table in trace["candidates"]]
    assert_trace_is_exact(uncached, asked["prompt"], output, trace)
