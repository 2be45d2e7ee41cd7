"""Changes on their way to the workers: taken over, or refused; none for a generation that has ended."""

import asyncio

import pytest

from server.errors import EndedError, EngineLostError
from server.generations.change_sender import ChangeSender
from server.generations.generation import Generation
from server.generations.phase import Phase
from server.generations.registry import Registry
from server.generations.trace_reader import TraceReader
from server.workers.change_line import ChangeLine
from server.workers.mailbox import Mailbox
from tests.server.kit import OWNER, FakeEngine, checked, eventually
from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import ChoiceName

FIRST = ChoiceName(0, 0)


def running(name: str = "g") -> Generation:
    return Generation(checked(generation_id=name), 1, OWNER)


def weight(to: float) -> Change:
    return Change("g", weights={"positivity": to})


def sender_to(engine: FakeEngine) -> ChangeSender:
    return ChangeSender(ChangeLine(Mailbox(engine, interval_s=0.01, liveness_s=0.02, retry_s=0.02)))


async def test_a_change_holds_from_the_token_that_the_worker_names() -> None:
    engine, generation = FakeEngine(tokens=100), running()
    engine.known["g"], engine.settings["g"] = 7, {FIRST: []}
    assert await sender_to(engine).send(generation, weight(-1.0)) == {FIRST: 7}
    assert generation.overrides.over(generation.guidance, FIRST).weights == {"positivity": -1.0}
    assert generation.is_watched


async def test_nothing_is_sent_for_what_has_ended() -> None:
    engine, sampled, over = FakeEngine(), running(), running()
    sampled.choice(0).advance(Phase.SAMPLED)
    over.end()
    for generation in (sampled, over):
        with pytest.raises(EndedError):
            await sender_to(engine).send(generation, weight(1.0))
    assert engine.calls == []


async def test_a_change_before_the_end_leaves_nothing_behind() -> None:
    """The next generation of that id would inherit it."""
    engine, registry, generation = FakeEngine(), Registry(), running()
    mailbox = Mailbox(engine, interval_s=0.03)
    sender, reader = ChangeSender(ChangeLine(mailbox)), TraceReader(mailbox, registry)
    registry.open(generation)
    await sender.send(generation, weight(0.0))
    late = asyncio.create_task(sender.send(generation, weight(1.0)))
    await asyncio.sleep(0)
    reader.forget(generation)
    await late
    with pytest.raises(EndedError):
        await sender.send(generation, weight(2.0))
    await eventually(lambda: len(registry) == 0)
    assert len(engine.changed) == 0


async def test_a_failed_exchange_is_no_change() -> None:
    engine, generation = FakeEngine(), running()
    sender = sender_to(engine)
    engine.failure = RuntimeError("worker said no")
    with pytest.raises(EngineLostError, match=r"^the engine did not answer$"):
        await sender.send(generation, weight(1.0))
    assert generation.overrides.version == 0
    engine.failure = None
    await sender.send(generation, weight(1.0))
    assert generation.overrides.version == 1


async def test_a_client_that_leaves_does_not_take_its_change_back() -> None:
    engine, generation = FakeEngine(), running()
    leaving = asyncio.create_task(sender_to(engine).send(generation, weight(1.0)))
    await asyncio.sleep(0)
    leaving.cancel()
    await eventually(lambda: generation.overrides.version == 1)
