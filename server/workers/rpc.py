"""Calling the worker extension from the HTTP process. No torch, no vLLM: the engine client is met by a `Protocol`."""

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


async def call_workers(engine: EngineRpc, method: str, *args: Any, liveness_s: float = LIVENESS_S) -> Mapping[str, Any]:
    """One call; the answer of the one rank that gives any.

    vLLM never settles the calls that were under way when the engine died, so this looks after it every `liveness_s`.

    Raises:
        EngineLostError: the engine died, or no rank answered.
        Exception: what the worker raised, as vLLM hands it on.
    """
    call = asyncio.ensure_future(engine.collective_rpc(method, args=args))
    try:
        while not (await asyncio.wait({call}, timeout=liveness_s))[0]:
            if engine.errored:
                raise EngineLostError("the engine died")
    finally:
        call.cancel()
    return first_answer(call.result())


def first_answer(answers: Sequence[Mapping[str, Any] | None]) -> Mapping[str, Any]:
    """The one rank's answer that counts: the first that is not None.

    Raises:
        EngineLostError: no rank answered.
    """
    for answer in answers:
        if answer is not None:
            return answer
    raise EngineLostError("no worker answered: is the value guide loaded?")
