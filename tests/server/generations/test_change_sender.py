"""Changes on their way to the workers: in order, few calls, none after the end."""

import asyncio

import pytest

from server.errors import EndedError, EngineLostError
from server.generations.change_sender import ChangeSender
from server.generations.generation import Generation
from server.generations.registry import Registry
from server.generations.trace_reader import TraceReader
from tests.server.kit import OWNER, FakeEngine, asked, eventually
from valuemodels.contract.changes import Change

WEIGHT = "objective_weights.positivity"


def running(live: Registry, name: str = "g") -> Generation:
    made = Generation(asked(generation_id=name), 1, OWNER)
    made.prompts = 1
    live.open(made)
    return made


def sent(engine: FakeEngine) -> list[list[tuple[str, float]]]:
    """Per call, the generation and the weight of each change."""
    calls = [args[0] for method, args in engine.calls if method == "mavis_steer"]
    return [[(wire["generation_id"], wire["fields"][WEIGHT]) for wire in call] for call in calls]


async def test_changes_of_many_generations_share_few_calls_and_keep_their_order() -> None:
    engine, live = FakeEngine(), Registry()
    steerer = ChangeSender(engine, live, interval_s=0.03)
    generations = [running(live, f"g{i}") for i in range(16)]
    waiting = [
        asyncio.ensure_future(steerer.steer(generation, Change(generation.id, {WEIGHT: float(at)})))
        for at in range(5)
        for generation in generations
    ]
    await asyncio.gather(*waiting)
    assert len(sent(engine)) <= 2
    for generation in generations:
        assert [w for call in sent(engine) for name, w in call if name == generation.id] == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert generation.overrides.over(generation.guidance, "0:0").weights == {"positivity": 4.0}


async def test_calls_are_an_interval_apart_and_the_first_goes_at_once() -> None:
    engine, live = FakeEngine(), Registry()
    steerer, generation = ChangeSender(engine, live, interval_s=0.2), running(live)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await steerer.steer(generation, Change("g", {WEIGHT: 0.0}))
    assert loop.time() - started < 0.15
    await steerer.steer(generation, Change("g", {WEIGHT: 1.0}))
    assert loop.time() - started >= 0.2


async def test_a_change_after_the_end_is_never_sent() -> None:
    """The worker may have forgotten the id, and the next generation of that id would inherit the change."""
    engine, live = FakeEngine(), Registry()
    steerer, generation = ChangeSender(engine, live, interval_s=0.03), running(live)
    reader = TraceReader(engine, live, interval_s=0.01)
    await steerer.steer(generation, Change("g", {WEIGHT: 0.0}))
    late = asyncio.create_task(steerer.steer(generation, Change("g", {WEIGHT: 1.0})))
    await asyncio.sleep(0)
    reader.drop(generation)
    with pytest.raises(EndedError):
        await late
    with pytest.raises(EndedError):
        await steerer.steer(generation, Change("g", {WEIGHT: 2.0}))
    await eventually(lambda: live.get("g") is None)
    assert sent(engine) == [[("g", 0.0)]]
    assert len(engine.steered) == 0


async def test_a_failed_call_fails_its_changes_and_not_the_next() -> None:
    engine, live = FakeEngine(), Registry()
    steerer, generation = ChangeSender(engine, live, interval_s=0.01), running(live)
    engine.failure = RuntimeError("worker said no")
    with pytest.raises(EngineLostError, match="worker said no"):
        await steerer.steer(generation, Change("g", {WEIGHT: 1.0}))
    assert generation.overrides.version == 0
    engine.failure = None
    await steerer.steer(generation, Change("g", {WEIGHT: 1.0}))


async def test_a_dead_engine_fails_those_who_wait() -> None:
    engine, live = FakeEngine(), Registry()
    engine.hangs = True
    steerer, generation = ChangeSender(engine, live, liveness_s=0.02), running(live)
    waiting = asyncio.create_task(steerer.steer(generation, Change("g", {WEIGHT: 1.0})))
    await asyncio.sleep(0.05)
    engine.errored = True
    with pytest.raises(EngineLostError):
        await asyncio.wait_for(waiting, 5)


async def test_a_client_that_leaves_does_not_take_its_change_back() -> None:
    engine, live = FakeEngine(), Registry()
    steerer, generation = ChangeSender(engine, live), running(live)
    leaving = asyncio.create_task(steerer.steer(generation, Change("g", {WEIGHT: 1.0})))
    await asyncio.sleep(0)
    leaving.cancel()
    await eventually(lambda: generation.overrides.version == 1)
