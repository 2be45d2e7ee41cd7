"""The trace reader: few calls, none lost, nobody left waiting."""

import asyncio
import time
from typing import Any

import pytest

from server.errors import TracesLostError
from server.generations.generation import Generation
from server.generations.registry import Registry
from server.generations.trace_reader import TraceReader
from tests.server.kit import OWNER, FakeEngine, asked, eventually

WEIGHTS = {"objective_weights": {"positivity": 1}}


def reader_of(engine: FakeEngine, live: Registry | None = None, interval_s: float = 0.03) -> TraceReader:
    return TraceReader(engine, Registry() if live is None else live, interval_s=interval_s, liveness_s=0.02)


def running(engine: FakeEngine, name: str, tokens: int = 3, live: Registry | None = None) -> Generation:
    """A generation of which the engine has returned `tokens` tokens and knows as many."""
    made = Generation(asked(WEIGHTS, name), 1, OWNER)
    made.prompts = 1
    made.count(0, 0, tokens)
    engine.known[name] = tokens
    if live is not None:
        live.open(made)
    return made


async def test_polls_of_many_streams_go_in_one_call() -> None:
    """Each call stops the engine's loop: one a stream and token would halve its speed."""
    engine = FakeEngine()
    reader = reader_of(engine)
    generations = [running(engine, f"g{i}") for i in range(20)]
    for generation in generations * 3:
        reader.poll(generation)
    await eventually(lambda: all(len(generation.choice(0).trace) == 3 for generation in generations))
    assert len(engine.calls) == 1


async def test_polls_are_an_interval_apart() -> None:
    engine = FakeEngine()
    reader = reader_of(engine, interval_s=0.05)
    generation = running(engine, "g", 1)
    started = time.monotonic()
    for tokens in range(2, 22):
        generation.count(0, 0, 1)
        engine.known["g"] = tokens
        reader.poll(generation)
        await asyncio.sleep(0.01)
    assert 2 <= len(engine.calls) <= (time.monotonic() - started) / 0.05 + 1


async def test_a_read_does_not_wait_for_the_interval_and_takes_polls_along() -> None:
    engine = FakeEngine()
    reader = reader_of(engine, interval_s=30)
    polled, read = running(engine, "polled"), running(engine, "read")
    reader.poll(polled)
    await asyncio.wait_for(reader.read(read, drop=True), 5)
    assert len(engine.calls) == 1
    assert len(polled.choice(0).trace) == len(read.choice(0).trace) == 3
    assert engine.dropped == ["read"]


async def test_reads_at_the_same_time_share_a_call() -> None:
    engine = FakeEngine()
    reader = reader_of(engine)
    generations = [running(engine, f"g{i}") for i in range(10)]
    await asyncio.gather(*(reader.read(generation, drop=True) for generation in generations))
    assert len(engine.calls) <= 2
    assert sorted(engine.dropped) == sorted(generation.id for generation in generations)


async def test_there_is_one_call_at_a_time() -> None:
    engine = FakeEngine()
    under_way = most = 0
    inner = engine.collective_rpc

    async def counted(method: str, *, args: tuple[Any, ...] = ()) -> list[Any]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await inner(method, args=args)
        finally:
            under_way -= 1

    engine.collective_rpc = counted  # type: ignore[method-assign]
    reader = reader_of(engine)

    async def later(i: int) -> None:
        await asyncio.sleep(i * 0.002)
        await reader.read(running(engine, f"g{i}"), drop=True)

    await asyncio.gather(*(later(i) for i in range(12)))
    assert most == 1


async def test_only_what_is_missing_is_asked_for() -> None:
    engine = FakeEngine()
    reader = reader_of(engine)
    generation = running(engine, "g", 2)
    await reader.read(generation, drop=False)
    generation.count(0, 0, 3)
    engine.known["g"] = 5
    await reader.read(generation, drop=False)
    assert [args[0] for _, args in engine.calls] == [{"g": {"0:0": 0}}, {"g": {"0:0": 2}}]
    assert generation.choice(0).trace.token_ids == [0, 1, 2, 3, 4]


async def test_nothing_to_say_is_no_call() -> None:
    engine = FakeEngine()
    reader = reader_of(engine)
    await reader.read(running(engine, "g", 0), drop=False)
    assert engine.calls == []


async def test_a_dead_engine_fails_those_who_wait() -> None:
    """vLLM settles no call that was under way when the engine died: without a look at it they would wait for ever."""
    engine = FakeEngine()
    engine.hangs = True
    reader = reader_of(engine)
    waiting = [asyncio.create_task(reader.read(running(engine, f"g{i}"), drop=True)) for i in range(3)]
    await asyncio.sleep(0.05)
    engine.errored = True
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert all(isinstance(result, TracesLostError) for result in results)


async def test_a_failed_call_fails_its_reads_and_not_the_next() -> None:
    engine = FakeEngine()
    reader = reader_of(engine)
    engine.failure = RuntimeError("worker said no")
    with pytest.raises(TracesLostError, match="worker said no"):
        await reader.read(running(engine, "a"), drop=True)
    engine.failure = None
    await reader.read(running(engine, "b"), drop=True)


async def test_no_answering_rank_is_an_error() -> None:
    engine = FakeEngine()

    async def nobody(method: str, *, args: tuple[Any, ...] = ()) -> list[Any]:
        return [None, None]

    engine.collective_rpc = nobody  # type: ignore[method-assign]
    with pytest.raises(TracesLostError, match="no worker answered"):
        await reader_of(engine).read(running(engine, "a"), drop=True)


async def test_a_reader_who_leaves_does_not_disturb_the_others() -> None:
    engine = FakeEngine()
    reader = reader_of(engine)
    leaving = asyncio.create_task(reader.read(running(engine, "leaving"), drop=True))
    staying = asyncio.create_task(reader.read(running(engine, "staying"), drop=True))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait_for(staying, 5)
    assert leaving.cancelled()


async def test_an_id_is_free_once_the_worker_has_forgotten_it() -> None:
    """Free earlier, its next owner's trace would be what the late drop hits."""
    engine, live = FakeEngine(), Registry()
    reader = reader_of(engine, live)
    generation = running(engine, "g", live=live)
    reader.drop(generation)
    assert live.get("g") is generation
    await eventually(lambda: live.get("g") is None)
    assert engine.dropped == ["g"]
    reader.drop(generation)
    await reader.read(running(engine, "other"), drop=True)
    assert engine.dropped == ["g", "other"]


async def test_an_id_becomes_free_even_if_the_drop_fails() -> None:
    engine, live = FakeEngine(), Registry()
    engine.failure = RuntimeError("no")
    reader_of(engine, live).drop(running(engine, "g", live=live))
    await eventually(lambda: len(live) == 0)


async def test_the_workers_stats_are_handed_on() -> None:
    engine, seen = FakeEngine(), []
    reader = TraceReader(engine, Registry(), on_stats=seen.append)
    await reader.read(running(engine, "g"), drop=True)
    assert seen == [{"value_fallback_rows": 0}]
