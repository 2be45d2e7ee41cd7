"""How long a new sequence would probably wait."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from server.gate.load import MAX_RETRY_S, EngineLoad


async def outputs() -> AsyncGenerator[Any, None]:
    while True:
        yield object()


async def test_a_wait_is_estimated_by_how_fast_others_began() -> None:
    now = [100.0]
    load = EngineLoad(clock=lambda: now[0])
    assert load.estimated_wait_s() == 0.0 and load.retry_after_s() == 1
    for _ in range(5):
        now[0] += 2
        stream = load.watched(outputs(), 1)
        await anext(stream)
        await stream.aclose()
    assert load.estimated_wait_s() == 0.0, "nobody waits"
    load.waiting = 10
    now[0] += 2
    assert load.estimated_wait_s() == 10 * 10 / 5 and load.retry_after_s() == 20
    load.waiting = 10_000
    assert load.retry_after_s() == MAX_RETRY_S
    now[0] += 1000
    assert load.estimated_wait_s() == 0.0, "what was long ago tells nothing"


async def test_who_leaves_while_it_waits_is_not_counted_any_more() -> None:
    class Slow:
        is_closed = False

        async def outputs(self) -> AsyncGenerator[Any, None]:
            try:
                await asyncio.sleep(60)
                yield object()
            finally:
                self.is_closed = True

    load, slow = EngineLoad(), Slow()
    first = asyncio.ensure_future(anext(load.watched(slow.outputs(), 3)))
    await asyncio.sleep(0.01)
    assert load.waiting == 3
    first.cancel()
    await asyncio.wait([first])
    assert load.waiting == 0 and slow.is_closed
