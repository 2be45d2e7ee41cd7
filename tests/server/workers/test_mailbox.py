"""The mailbox: few exchanges, an order that holds, none lost, nobody left waiting."""

import asyncio
import time
from typing import Any

import pytest

from server.errors import EngineLostError
from server.workers.mailbox import Mailbox
from tests.server.kit import FakeEngine, eventually
from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import ChoiceName
from valuemodels.contract.trace_wire import TokenRange

FIRST = ChoiceName(0, 0)


def mailbox_to(engine: FakeEngine, interval_s: float = 0.03, change_interval_s: float = 0.02) -> Mailbox:
    return Mailbox(engine, interval_s=interval_s, change_interval_s=change_interval_s, liveness_s=0.02, retry_s=0.02)


def weight(generation_id: str, to: float) -> Change:
    return Change(generation_id, weights={"positivity": to})


async def test_what_comes_together_goes_in_one_exchange() -> None:
    """Each call stops the engine's loop: one a stream and token would halve its speed."""
    engine = FakeEngine()
    engine.known, engine.settings = {f"g{i}": 3 for i in range(20)}, {"g1": {FIRST: []}}
    mailbox = mailbox_to(engine)
    for _ in range(3):
        for gid in engine.known:
            answered = mailbox.read(gid, {FIRST: TokenRange(1, [1, 2])})
    mailbox.change(weight("g1", 1.0))
    mailbox.drop("g2", lambda: None)
    exchange = await answered
    ((changes, reads, drops),) = engine.exchanges
    assert [change["generation_id"] for change in changes] == ["g1"]
    assert len(reads) == 20 and reads["g0"] == {"0:0": (1, [1, 2])} and drops == ["g2"]
    assert exchange.traces["g5"][FIRST]["token_ids"] == [1, 2]
    assert exchange.next_tokens == {"g1": {FIRST: 3}}


async def test_reads_of_one_generation_are_joined() -> None:
    engine = FakeEngine()
    mailbox = mailbox_to(engine)
    mailbox.read("g", {FIRST: TokenRange(4, [9])})
    await mailbox.read("g", {FIRST: TokenRange(4, [9]), ChoiceName(1, 2): TokenRange(0, [3])})
    assert engine.exchanges[0][1] == {"g": {"0:0": (4, [9]), "1:2": (0, [3])}}


async def test_exchanges_are_an_interval_apart_and_the_first_goes_at_once() -> None:
    await asyncio.wait_for(mailbox_to(FakeEngine(), interval_s=60).read("g", {FIRST: TokenRange(0, [0])}), 30)
    mailbox = mailbox_to(FakeEngine(), interval_s=0.2)
    started = time.monotonic()
    await mailbox.read("g", {FIRST: TokenRange(0, [0])})
    await mailbox.read("g", {FIRST: TokenRange(0, [0])})
    assert time.monotonic() - started >= 0.2


async def test_a_change_waits_for_its_own_interval_alone_and_takes_the_rest_along() -> None:
    engine = FakeEngine()
    mailbox = mailbox_to(engine, interval_s=30, change_interval_s=0.1)
    await mailbox.read("early", {FIRST: TokenRange(0, [0])})
    started = time.monotonic()
    mailbox.read("polled", {FIRST: TokenRange(0, [0])})
    await mailbox.change(weight("g", 0.0))
    await mailbox.change(weight("g", 1.0))
    assert 0.15 <= time.monotonic() - started < 10
    assert [len(changes) for changes, _, _ in engine.exchanges] == [0, 1, 1] and "polled" in engine.exchanges[1][1]


async def test_what_is_posted_all_the_time_goes_once_an_interval() -> None:
    engine = FakeEngine()
    mailbox = mailbox_to(engine, interval_s=0.05)
    started = time.monotonic()
    for _ in range(20):
        mailbox.read("g", {FIRST: TokenRange(0, [0])})
        await asyncio.sleep(0.01)
    assert 2 <= len(engine.calls) <= (time.monotonic() - started) / 0.05 + 1


@pytest.mark.parametrize("what", ["read", "drop"])
async def test_what_is_urgent_does_not_wait_for_the_interval_and_takes_the_rest_along(what: str) -> None:
    engine = FakeEngine()
    mailbox = mailbox_to(engine, interval_s=30)
    await mailbox.read("early", {FIRST: TokenRange(0, [0])})
    mailbox.read("polled", {FIRST: TokenRange(0, [0])})
    await asyncio.sleep(0.02)
    urgent = (
        mailbox.read("g", {FIRST: TokenRange(0, [0])}, is_urgent=True)
        if what == "read"
        else mailbox.drop("g", lambda: None, is_urgent=True)
    )
    await asyncio.wait_for(urgent, 5)
    assert len(engine.exchanges) == 2 and "polled" in engine.exchanges[1][1]


async def test_changes_keep_their_order() -> None:
    engine = FakeEngine()
    mailbox = mailbox_to(engine)
    waiting = []
    for at in range(6):
        waiting += [mailbox.change(weight(f"g{i}", float(at))) for i in range(16)]
        await asyncio.sleep(0.015 if at == 2 else 0)
    await asyncio.gather(*waiting)
    sent = [change for changes, _, _ in engine.exchanges for change in changes]
    assert len(engine.exchanges) <= 4
    for i in range(16):
        mine = [change["objective_weights"]["positivity"] for change in sent if change["generation_id"] == f"g{i}"]
        assert mine == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


async def test_a_change_is_never_sent_after_the_drop_of_its_generation() -> None:
    """The worker would keep it for the next generation of that id, which would inherit it."""
    engine = FakeEngine()
    mailbox = mailbox_to(engine)
    for _ in range(5):
        mailbox.change(weight("g", 1.0))
        await asyncio.sleep(0.007)
    await mailbox.drop("g", lambda: None)
    assert len(engine.changed) == 0


class Held(FakeEngine):
    """Answers when it is told to, in order.

    Attributes:
        most: how many calls were under way at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gates: list[asyncio.Event] = []
        self.most = 0

    async def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> list[Any]:
        gate = asyncio.Event()
        self.gates.append(gate)
        self.most = max(self.most, sum(not each.is_set() for each in self.gates))
        await gate.wait()
        return await super().collective_rpc(method, args=args)


async def test_reads_and_drops_wait_for_the_exchange_under_way() -> None:
    engine = Held()
    mailbox = mailbox_to(engine, interval_s=0)
    waiting = [mailbox.read("g", {FIRST: TokenRange(0, [0])}, is_urgent=True)]
    await eventually(lambda: len(engine.gates) == 1)
    waiting += [mailbox.read("g", {FIRST: TokenRange(0, [0])}, is_urgent=True), mailbox.drop("g", lambda: None)]
    await asyncio.sleep(0.05)
    assert len(engine.gates) == 1
    engine.gates[0].set()
    await eventually(lambda: len(engine.gates) == 2)
    engine.gates[1].set()
    await asyncio.gather(*waiting)
    assert engine.most == 1


async def test_a_change_overtakes_the_wait_for_an_answer_and_two_at_most_are_under_way() -> None:
    engine = Held()
    mailbox = mailbox_to(engine, interval_s=0, change_interval_s=0)
    waiting = [mailbox.read("g", {FIRST: TokenRange(0, [0])})]
    await eventually(lambda: len(engine.gates) == 1)
    waiting.append(mailbox.change(weight("g", 1.0)))
    await eventually(lambda: len(engine.gates) == 2)
    waiting.append(mailbox.change(weight("g", 2.0)))
    await asyncio.sleep(0.05)
    assert len(engine.gates) == 2
    engine.gates[0].set()
    await eventually(lambda: len(engine.gates) == 3)
    for gate in engine.gates:
        gate.set()
    await asyncio.gather(*waiting)
    assert engine.most == 2
    sent = [change["objective_weights"]["positivity"] for changes, _, _ in engine.exchanges for change in changes]
    assert sent == [1.0, 2.0]


async def test_a_drop_that_two_exchanges_carry_is_delivered_once_and_never_taken_for_a_later_one() -> None:
    """Between the two answers the id may be free, taken again, and dropped again, which neither of them has carried."""
    engine, delivered = Held(), list[str]()
    mailbox = mailbox_to(engine, interval_s=0, change_interval_s=0)
    mailbox.drop("g", lambda: delivered.append("first"))
    await eventually(lambda: len(engine.gates) == 1)
    mailbox.change(weight("other", 1.0))
    await eventually(lambda: len(engine.gates) == 2)
    engine.gates[0].set()
    await eventually(lambda: delivered == ["first"])
    mailbox.drop("g", lambda: delivered.append("second"))
    engine.gates[1].set()
    await eventually(lambda: len(engine.gates) == 3)
    assert delivered == ["first"]
    engine.gates[2].set()
    await eventually(lambda: delivered == ["first", "second"])


async def test_a_dead_engine_fails_those_who_wait() -> None:
    engine = FakeEngine()
    engine.hangs = True
    mailbox = mailbox_to(engine)
    waiting = [mailbox.read(f"g{i}", {FIRST: TokenRange(0, [0])}) for i in range(3)]
    await asyncio.sleep(0.05)
    engine.errored = True
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert all(isinstance(result, EngineLostError) for result in results)


async def test_a_failed_exchange_fails_what_was_in_it_and_not_the_next() -> None:
    engine = FakeEngine()
    mailbox = mailbox_to(engine)
    engine.failure = RuntimeError("worker said no")
    with pytest.raises(EngineLostError) as failed:
        await mailbox.read("a", {FIRST: TokenRange(0, [0])})
    assert "worker said no" in failed.value.reason and "worker said no" not in str(failed.value)
    engine.failure = None
    await mailbox.read("b", {FIRST: TokenRange(0, [0])})


async def test_a_drop_is_never_lost() -> None:
    """The worker would keep the changes of that id, and its next generation would inherit them."""
    engine, delivered = FakeEngine(), list[str]()
    mailbox = mailbox_to(engine)
    await mailbox.change(weight("g", 2.0))
    engine.failure = RuntimeError("worker said no")
    with pytest.raises(EngineLostError):
        await mailbox.drop("g", lambda: delivered.append("g"))
    await asyncio.sleep(0.05)
    assert delivered == [] and len(engine.changed) == 1
    engine.failure = None
    await eventually(lambda: delivered == ["g"])
    assert len(engine.changed) == 0
    calls = len(engine.calls)
    await asyncio.sleep(0.05)
    assert (delivered, len(engine.calls)) == (["g"], calls), "delivered once, and not tried again"


async def test_with_the_engine_everything_is_forgotten() -> None:
    engine, delivered = FakeEngine(), list[str]()
    engine.failure, engine.errored = RuntimeError("dead"), True
    with pytest.raises(EngineLostError):
        await mailbox_to(engine).drop("g", lambda: delivered.append("g"))
    await eventually(lambda: delivered == ["g"])


async def test_no_answering_rank_is_an_error() -> None:
    engine = FakeEngine()

    async def nobody(method: str, *, args: tuple[Any, ...] = ()) -> list[Any]:
        return [None, None]

    engine.collective_rpc = nobody  # type: ignore[method-assign]
    with pytest.raises(EngineLostError) as failed:
        await mailbox_to(engine).drop("a", lambda: None)
    assert "no worker answered" in failed.value.reason


async def test_the_end_of_the_server_fails_those_who_wait() -> None:
    engine = FakeEngine()
    engine.hangs = True
    mailbox = mailbox_to(engine)
    answered = mailbox.read("g", {FIRST: TokenRange(0, [0])})
    await eventually(lambda: bool(engine.calls))
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "mavis mailbox"]
    assert len(engine.calls) == 1
    task.cancel()
    with pytest.raises(EngineLostError) as failed:
        await answered
    assert "shutting down" in failed.value.reason


async def test_the_workers_counters_are_handed_on() -> None:
    engine, seen = FakeEngine(), list[Any]()
    await Mailbox(engine, on_stats=seen.append).read("g", {FIRST: TokenRange(0, [0])})
    assert seen == [{"value_fallback_rows": 0}]
