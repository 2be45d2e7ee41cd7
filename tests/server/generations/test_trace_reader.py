"""The trace reader: what arrives in a generation, and how one ends."""

import asyncio

import pytest

from server.errors import TracesLostError
from server.generations.generation import Generation
from server.generations.phase import Phase
from server.generations.registry import Registry
from server.generations.trace_reader import TraceReader
from server.workers.mailbox import Mailbox
from tests.server.kit import OWNER, FakeEngine, checked, eventually
from valuemodels.contract.guidance import ChoiceName

FIRST = ChoiceName(0, 0)


def reader_of(engine: FakeEngine, registry: Registry | None = None, interval_s: float = 0.03) -> TraceReader:
    mailbox = Mailbox(engine, interval_s=interval_s, liveness_s=0.02, retry_s=0.02)
    return TraceReader(mailbox, Registry() if registry is None else registry)


def running(engine: FakeEngine, name: str, tokens: int = 3, registry: Registry | None = None) -> Generation:
    """A generation of which the engine has returned `tokens` tokens and knows as many."""
    made = Generation(checked(generation_id=name), 1, OWNER)
    made.count(FIRST, list(range(tokens)))
    engine.known[name] = tokens
    if registry is not None:
        registry.open(made)
    return made


def told(generation: Generation) -> Generation:
    generation.choice(0).advance(Phase.TOLD)
    return generation


async def test_polls_of_many_streams_go_in_one_exchange_and_arrive() -> None:
    engine = FakeEngine()
    reader = reader_of(engine)
    generations = [running(engine, f"g{i}") for i in range(20)]
    for generation in generations * 3:
        reader.poll(generation)
    await eventually(lambda: all(len(generation.choice(0).trace) == 3 for generation in generations))
    assert len(engine.exchanges) == 1


async def test_a_poll_after_the_last_one_arrived_asks_again() -> None:
    engine = FakeEngine()
    reader, generation = reader_of(engine, interval_s=0.001), running(engine, "g", 1)
    for tokens in range(1, 4):
        reader.poll(generation)
        await eventually(lambda tokens=tokens: len(generation.choice(0).trace) == tokens)  # type: ignore[misc]
        generation.count(FIRST, [tokens])
        engine.known["g"] = tokens + 1
    assert [reads["g"]["0:0"].start for _, reads, _ in engine.exchanges] == [0, 1, 2]


async def test_what_is_read_already_asks_for_nothing() -> None:
    engine = FakeEngine()
    reader, generation = reader_of(engine), running(engine, "g")
    await reader.read(generation)
    await reader.read(generation)
    reader.poll(generation)
    await asyncio.sleep(0.05)
    assert len(engine.exchanges) == 1


async def test_the_last_read_drops_in_the_same_exchange() -> None:
    """One small call an answer: each stops the engine's loop."""
    engine, registry = FakeEngine(), Registry()
    reader, generation = reader_of(engine, registry), told(running(engine, "g", registry=registry))
    registry.open(running(engine, "other"))
    await reader.read(generation)
    assert len(engine.exchanges) == 1 and engine.dropped == ["g"]
    assert len(generation.choice(0).trace) == 3
    assert generation.phase is Phase.OVER and registry.running("g") is None
    assert reader.forget(generation) is None
    assert engine.dropped == ["g"]


async def test_a_last_read_that_finds_nothing_new_does_not_wait_for_the_interval() -> None:
    engine = FakeEngine()
    reader, generation = reader_of(engine, interval_s=30), running(engine, "g")
    await reader.read(generation)
    await asyncio.wait_for(reader.read(told(generation)), 5)
    assert engine.dropped == ["g"]


async def test_an_id_is_free_once_the_workers_have_forgotten_it() -> None:
    """Free earlier, its next owner's trace would be what the late drop hits."""
    engine, registry = FakeEngine(), Registry()
    reader = reader_of(engine, registry)
    generation = running(engine, "g", registry=registry)
    reader.forget(generation)
    assert registry.running("g") is generation
    await eventually(lambda: registry.running("g") is None)
    assert engine.dropped == ["g"]


async def test_a_generation_of_which_the_workers_keep_nothing_is_free_at_once() -> None:
    engine, registry = FakeEngine(), Registry()
    plain = Generation(checked({"objective_weights": {"positivity": 0}}), 1, OWNER)
    registry.open(plain)
    reader_of(engine, registry).forget(plain)
    assert registry.running(plain.id) is None and registry.find(plain.id) is plain
    await asyncio.sleep(0.02)
    assert engine.calls == []


async def test_an_id_is_taken_until_the_drop_has_been_delivered() -> None:
    """Free earlier, the late drop would hit the next generation's trace, or that one would inherit changes."""
    engine, registry = FakeEngine(), Registry()
    engine.failure = RuntimeError("no")
    reader_of(engine, registry).forget(running(engine, "g", registry=registry))
    await asyncio.sleep(0.05)
    assert registry.running("g") is not None
    engine.failure = None
    await eventually(lambda: len(registry) == 0)


async def test_an_id_is_free_where_there_is_no_engine_any_more() -> None:
    engine, registry = FakeEngine(), Registry()
    engine.failure, engine.errored = RuntimeError("dead"), True
    reader_of(engine, registry).forget(running(engine, "g", registry=registry))
    await eventually(lambda: len(registry) == 0)


async def test_a_trace_that_cannot_be_read_costs_only_its_own_answer() -> None:
    engine = FakeEngine()
    engine.unreadable = {"broken"}
    reader, broken, whole = reader_of(engine), running(engine, "broken"), running(engine, "whole")
    results = await asyncio.gather(reader.read(broken), reader.read(whole), return_exceptions=True)
    assert isinstance(results[0], TracesLostError) and results[1] is None
    assert len(engine.exchanges) == 1 and len(whole.choice(0).trace) == 3


async def test_a_failed_exchange_is_lost_values() -> None:
    engine = FakeEngine()
    engine.failure = RuntimeError("worker said no")
    reader = reader_of(engine)
    with pytest.raises(TracesLostError, match=r"could not be read from the engine$"):
        await reader.read(running(engine, "a"))
    generation = running(engine, "b")
    reader.poll(generation)
    await asyncio.sleep(0.05)
    assert len(generation.choice(0).trace) == 0


async def test_a_reader_who_leaves_does_not_disturb_the_others() -> None:
    engine = FakeEngine()
    reader = reader_of(engine)
    leaving = asyncio.create_task(reader.read(running(engine, "leaving")))
    staying = asyncio.create_task(reader.read(running(engine, "staying")))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait_for(staying, 5)
    assert leaving.cancelled()
