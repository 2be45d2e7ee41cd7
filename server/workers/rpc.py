"""Calling the worker extension from the HTTP process. No torch, no vLLM: the engine client is met by a `Protocol`.

There may be several engines (data parallelism), each with ranks that sample alike (tensor parallelism) or not at all
(pipeline parallelism). A call reaches all of them, and every engine has one answer.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from server.errors import EngineLostError

LIVENESS_S = 1.0


class EngineRpc(Protocol):
    """The two things we need of vLLM's `EngineClient` here."""

    @property
    def errored(self) -> bool:
        """True once the engine is dead."""
        ...

    async def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> Any:
        """Call a worker extension's method on every rank; one result a rank."""
        ...


async def call_workers(
    engine: EngineRpc, method: str, *args: Any, liveness_s: float = LIVENESS_S
) -> list[Mapping[str, Any]]:
    """One call; what every engine answers.

    Raises:
        EngineLostError: an engine died, or no rank of one answered.
        Exception: what the worker raised, as vLLM hands it on.
    """
    return [_first_answer(ranks) for ranks in await _called(engine, method, args, liveness_s)]


async def call_ranks(
    engine: EngineRpc, method: str, *args: Any, liveness_s: float = LIVENESS_S
) -> list[Mapping[str, Any]]:
    """One call; what every rank of every engine answers that has anything to say.

    Raises:
        EngineLostError, Exception: as `call_workers`.
    """
    found = await _called(engine, method, args, liveness_s)
    return [answer for ranks in found for answer in ranks if answer is not None]


async def _called(
    engine: EngineRpc, method: str, args: tuple[Any, ...], liveness_s: float
) -> Sequence[Sequence[Mapping[str, Any] | None]]:
    """What every rank of every engine answers.

    vLLM never settles the calls that were under way when the engine died, so this looks after it every `liveness_s`.

    Raises:
        EngineLostError: an engine died, or no rank of one answered.
        Exception: what the worker raised, as vLLM hands it on.
    """
    call = asyncio.ensure_future(_answers(engine, method, args))
    try:
        while not (await asyncio.wait({call}, timeout=liveness_s))[0]:
            if engine.errored:
                raise EngineLostError("the engine died")
    finally:
        call.cancel()
    return call.result()


async def _answers(engine: EngineRpc, method: str, args: tuple[Any, ...]) -> Sequence[Sequence[Any]]:
    """What the ranks of every engine answer. Of several engines vLLM's `collective_rpc` gives the first one's alone."""
    everywhere = getattr(getattr(engine, "engine_core", None), "call_utility_all_async", None)
    if everywhere is None:
        return [await engine.collective_rpc(method, args=args)]
    found: Sequence[Sequence[Any]] = await everywhere("collective_rpc", method, None, args, None)
    return found


def _first_answer(ranks: Sequence[Mapping[str, Any] | None]) -> Mapping[str, Any]:
    for answer in ranks:
        if answer is not None:
            return answer
    raise EngineLostError("no worker answered: is the value guide loaded?")
