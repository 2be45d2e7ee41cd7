"""Changes on their way to the workers: in order, gathered, at most one call every `interval_s`.

`collective_rpc` stops the engine's loop while the ranks answer, so all changes that come in meanwhile share the next
call. The first one after a pause goes at once.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from server.errors import EndedError, EngineLostError, RequestError
from server.generations.generation import Generation
from server.generations.registry import Registry
from server.workers.rpc import LIVENESS_S, EngineRpc, call_workers
from valuemodels.contract.changes import Change

logger = logging.getLogger("mavis.steering")

Positions = Mapping[str, int]
"""The worker's name of a choice -> index of its next token to be sampled."""


@dataclass(frozen=True, slots=True)
class _Pending:
    generation: Generation
    change: Change
    done: asyncio.Future[Positions]


class ChangeSender:
    """Hands changes to the workers, which know what they are for by the generation's id.

    A change that came after its generation's end is never sent: the worker may have forgotten the id already, and the
    next generation of that id would inherit it.
    """

    def __init__(
        self, engine: EngineRpc, live: Registry, interval_s: float = 0.05, liveness_s: float = LIVENESS_S
    ) -> None:
        self._engine = engine
        self._live = live
        self._interval_s = interval_s
        self._liveness_s = liveness_s
        self._pending: list[_Pending] = []
        self._task: asyncio.Task[None] | None = None

    async def steer(self, generation: Generation, change: Change) -> Positions:
        """Have a change taken over.

        Returns:
            From which token it holds, for the choices that a worker holds already; for all others, from their first.

        Raises:
            EndedError: the generation ended first.
            EngineLostError: the engine died or the call failed.
        """
        if not self._runs(generation):
            raise EndedError(generation.id)
        generation.is_steered = True  # before it is sent: from now on the worker must be told when it ends
        pending = _Pending(generation, change, asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="mavis steering")
        return await asyncio.shield(pending.done)

    def _runs(self, generation: Generation) -> bool:
        return self._live.get(generation.id) is generation and not generation.has_ended

    async def _run(self) -> None:
        """Live as long as there is something to do."""
        while self._pending:
            await self._flush()
            await asyncio.sleep(self._interval_s)

    async def _flush(self) -> None:
        pending, self._pending = self._pending, []
        late = [each for each in pending if not self._runs(each.generation)]
        sent = [each for each in pending if each not in late]
        for each in late:
            _fail(each, EndedError(each.generation.id))
        if not sent:
            return
        wire = [each.change.to_wire() for each in sent]
        try:
            positions = await call_workers(self._engine, "mavis_steer", wire, liveness_s=self._liveness_s)
        except asyncio.CancelledError:
            for each in sent:
                _fail(each, EngineLostError("the server is shutting down"))
            raise
        except Exception as error:
            logger.warning("%d changes could not be handed to the engine: %r", len(sent), error)
            for each in sent:
                _fail(each, EngineLostError(f"the change could not be handed to the engine: {error}"))
            return
        for each in sent:
            each.generation.overrides.take(each.change)
            if not each.done.done():
                each.done.set_result(positions.get(each.generation.id, {}))


def _fail(pending: _Pending, error: RequestError) -> None:
    if pending.done.done():
        return
    pending.done.set_exception(error)
    pending.done.exception()  # its client may have left, and nobody else is to be told
