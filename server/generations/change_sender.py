"""Changes on their way to the workers. Runs in the HTTP process, on its event loop alone. No torch, no vLLM."""

import asyncio

from server.errors import EndedError
from server.generations.generation import Generation
from server.generations.phase import Phase
from server.workers.change_line import ChangeLine
from server.workers.mailbox import NextTokens
from valuemodels.contract.changes import Change


class ChangeSender:
    """Hands changes to the workers, which know what they are for by the generation's id."""

    def __init__(self, line: ChangeLine) -> None:
        self._line = line

    async def send(self, generation: Generation, change: Change) -> NextTokens:
        """Have a change taken over; a client that leaves meanwhile does not take it back.

        Returns:
            From which token it holds, for the choices that a worker holds already; for all others, from their first.

        Raises:
            EndedError: the generation ended first.
            EngineLostError: the engine died or the way to it failed.
        """
        if generation.phase is not Phase.RUNNING:
            raise EndedError(generation.id)
        generation.watch()
        answered = self._line.change(change)

        def taken(answered: asyncio.Future[NextTokens]) -> None:
            if answered.exception() is None:
                generation.overrides.take(change)

        answered.add_done_callback(taken)
        return await asyncio.shield(answered)
