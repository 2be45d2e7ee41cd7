"""Changes over the worker's own socket: real sockets at both ends, and the mailbox where they do not do."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest

from server.errors import EngineLostError
from server.workers.change_line import ChangeLine
from server.workers.mailbox import Mailbox
from tests.server.kit import FakeEngine, eventually
from valuemodels.adapters.change_socket import ChangeSocket
from valuemodels.contract.change_wire import MAX_PACKET_BYTES
from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import ChoiceName

FIRST = ChoiceName(0, 0)


class Worker:
    """Takes changes over when `step` is called, and when an exchange comes, as the extension does."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.open()
        self.taken: list[float | None] = []
        self.token = 7
        self.is_broken = False

    def open(self) -> None:
        self.socket = ChangeSocket(self._taken, self.lock)

    def step(self) -> None:
        self.socket.take()

    def _taken(self, change: Change) -> Mapping[str, Any]:
        if self.is_broken:
            raise RuntimeError("cannot be taken over")
        self.taken.append(change.weights["w"])
        return {str(FIRST): self.token}


class EngineOf(FakeEngine):
    """Its exchanges empty the worker's socket first, then take what they bring."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self.worker = worker

    async def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> list[Any]:
        answers = await super().collective_rpc(method, args=args)
        self.worker.step()
        self.worker.taken += [wire["objective_weights"]["w"] for wire in args[0]]
        return answers


def change(weight: float) -> Change:
    return Change("g", weights={"w": weight})


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.socket.close()


@pytest.fixture
def engine(worker: Worker) -> EngineOf:
    return EngineOf(worker)


@pytest.fixture
async def line(worker: Worker, engine: EngineOf) -> AsyncIterator[ChangeLine]:
    line = line_to(engine, worker.socket.address)
    yield line
    line.close()


def line_to(engine: FakeEngine, address: str | None, patience_s: float = 60.0) -> ChangeLine:
    return ChangeLine(Mailbox(engine, interval_s=0.01, liveness_s=0.02, retry_s=0.02), address, patience_s)


async def test_a_change_is_answered_by_the_next_step_and_no_exchange(
    worker: Worker, engine: EngineOf, line: ChangeLine
) -> None:
    answers = [line.change(change(weight)) for weight in (0.5, -0.5)]
    assert worker.taken == []
    worker.step()
    assert await asyncio.gather(*answers) == [{FIRST: 7}] * 2
    assert worker.taken == [0.5, -0.5]
    assert engine.calls == []


async def test_a_thread_answers_at_once_but_never_while_a_step_reads_what_holds(
    worker: Worker, engine: EngineOf, line: ChangeLine
) -> None:
    worker.socket.listen()
    assert await line.change(change(0.5)) == {FIRST: 7}
    with worker.lock:
        answer = line.change(change(-0.5))
        await asyncio.sleep(0.05)
        assert worker.taken == [0.5] and not answer.done()
        worker.token = 8
    assert await answer == {FIRST: 8}
    assert engine.calls == []


async def test_what_a_step_takes_itself_the_thread_does_not_take_again(
    worker: Worker, engine: EngineOf, line: ChangeLine
) -> None:
    worker.socket.listen()
    await line.change(change(0.0))
    with worker.lock:
        answers = [line.change(change(float(weight))) for weight in range(1, 4)]
        worker.step()
    await asyncio.gather(*answers)
    await line.change(change(4.0))
    assert worker.taken == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert engine.calls == []


async def test_without_a_step_an_exchange_makes_the_worker_look(worker: Worker, engine: EngineOf) -> None:
    line = line_to(engine, worker.socket.address, patience_s=0.02)
    assert await line.change(change(1.0)) == {FIRST: 7}
    assert worker.taken == [1.0], "and it is not sent twice"
    assert engine.exchanges == [([], {}, [])] * len(engine.exchanges)
    line.close()


async def test_what_was_unanswered_when_the_socket_was_lost_goes_by_exchange_in_its_order(
    worker: Worker, engine: EngineOf, line: ChangeLine
) -> None:
    answers = [line.change(change(weight)) for weight in (1.0, 2.0)]
    worker.socket.close()
    worker.open()  # another worker's: nobody is connected to it
    await asyncio.gather(*answers)
    await line.change(change(3.0))
    assert worker.taken == [1.0, 2.0, 3.0]


async def test_a_change_that_finds_the_socket_broken_goes_after_those_before_it(
    worker: Worker, engine: EngineOf, line: ChangeLine
) -> None:
    answers = [line.change(change(1.0))]
    worker.socket.close()
    worker.open()
    answers.append(line.change(change(2.0)))  # at once: nothing has told of the loss yet
    await asyncio.gather(*answers)
    assert worker.taken == [1.0, 2.0]


async def test_changes_keep_their_order_where_one_is_too_large_for_the_socket(
    worker: Worker, engine: EngineOf, line: ChangeLine
) -> None:
    long = Change("g", weights={"w": 2.0, "x" * MAX_PACKET_BYTES: 1.0})
    answers = [line.change(each) for each in (change(1.0), long, change(3.0))]
    await asyncio.gather(*answers)
    assert worker.taken == [1.0, 2.0, 3.0]
    assert len(engine.exchanges[0][0]) == 2, "the third must not overtake the second"
    answer = line.change(change(4.0))
    worker.step()
    assert await answer == {FIRST: 7}, "and the socket is used again"


@pytest.mark.parametrize("address", [None, "mavis-nobody-listens-here"])
async def test_where_there_is_no_socket_changes_go_by_exchange(
    worker: Worker, engine: EngineOf, address: str | None
) -> None:
    await line_to(engine, address).change(change(1.0))
    assert worker.taken == [1.0]


async def test_a_dead_engine_is_told_to_who_waits(worker: Worker, engine: EngineOf) -> None:
    line = line_to(engine, worker.socket.address, patience_s=0.01)
    engine.errored = True
    engine.hangs = True
    with pytest.raises(EngineLostError):
        await line.change(change(1.0))
    line.close()


async def test_what_is_no_change_ends_the_connection_and_nothing_else(
    worker: Worker, engine: EngineOf, line: ChangeLine, caplog: pytest.LogCaptureFixture
) -> None:
    worker.is_broken = True
    answer = line.change(change(1.0))
    worker.step()
    worker.is_broken = False
    assert "a connection for changes is given up" in caplog.text
    await answer
    await eventually(lambda: worker.taken == [1.0])


async def test_another_user_may_not_connect(
    worker: Worker, engine: EngineOf, line: ChangeLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valuemodels.adapters.change_socket.os.getuid", lambda: 4_000_000)
    answer = line.change(change(1.0))
    worker.step()
    await answer
    assert len(engine.exchanges) == 1, "it was refused, and came by exchange"
