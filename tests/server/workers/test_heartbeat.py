"""The heartbeat: stuck workers are noticed without anybody's request, and counters come without a reader."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from server.workers.heartbeat import Heartbeat
from server.workers.mailbox import Mailbox
from tests.server.kit import FakeEngine, eventually


@asynccontextmanager
async def beating(
    engine: FakeEngine, seen: list[Mapping[str, Any]], is_busy: Callable[[], bool] = lambda: True
) -> AsyncIterator[Heartbeat]:
    mailbox = Mailbox(engine, seen.append, interval_s=0.001, liveness_s=0.01, retry_s=0.01)
    heartbeat = Heartbeat(mailbox, stall_s=0.2, is_busy=is_busy, interval_s=0.01)
    task = asyncio.create_task(heartbeat.run())
    yield heartbeat
    task.cancel()


async def test_workers_that_do_not_answer_are_noticed_and_their_return_as_well() -> None:
    engine, seen = FakeEngine(), list[Mapping[str, Any]]()
    async with beating(engine, seen) as heartbeat:
        await asyncio.sleep(0.4)
        assert not heartbeat.is_stalled
        engine.stops.clear()
        await eventually(lambda: heartbeat.is_stalled)
        engine.stops.set()
        await eventually(lambda: not heartbeat.is_stalled)


async def test_counters_are_read_without_a_reader() -> None:
    engine, seen = FakeEngine(), list[Mapping[str, Any]]()
    async with beating(engine, seen):
        await eventually(lambda: len(seen) > 3)
    assert all("value_fallback_rows" in stats for stats in seen)


async def test_a_failing_exchange_is_not_the_end_of_it() -> None:
    engine, seen = FakeEngine(), list[Mapping[str, Any]]()
    engine.failure = RuntimeError("no")
    async with beating(engine, seen) as heartbeat:
        await eventually(lambda: heartbeat.is_stalled)
        engine.failure = None
        await eventually(lambda: not heartbeat.is_stalled)


async def test_without_requests_workers_are_asked_seldom_and_still_watched() -> None:
    """Every question keeps vLLM's workers spinning for a second: an idle server would burn half a core."""
    engine, seen, busy = FakeEngine(), list[Mapping[str, Any]](), [False]
    async with beating(engine, seen, lambda: busy[0]) as heartbeat:
        await asyncio.sleep(0.5)
        assert 2 <= len(seen) <= 6 and not heartbeat.is_stalled
        engine.stops.clear()
        await eventually(lambda: heartbeat.is_stalled)
        engine.stops.set()
        await eventually(lambda: not heartbeat.is_stalled)
        before, busy[0] = len(seen), True
        await eventually(lambda: len(seen) > before + 5)
