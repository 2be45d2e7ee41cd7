"""Values on their way from the workers into the responses, and the end of every generation.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import asyncio

from server.errors import EngineLostError, TracesLostError, ValueFailureError
from server.generations.generation import Generation
from server.generations.phase import Phase
from server.generations.registry import Registry
from server.workers.mailbox import Exchange, Mailbox


class TraceReader:
    """Reads traces, and has the workers forget a generation before its id is free.

    If an id were free earlier, a new generation could take it, and the late drop would hit that one's trace.
    """

    def __init__(self, mailbox: Mailbox, registry: Registry) -> None:
        self._mailbox = mailbox
        self._registry = registry
        self._polled: set[str] = set()

    def poll(self, generation: Generation) -> None:
        """Ask for what is new, some time soon; what arrives is in the generation's choices."""
        if generation.id in self._polled or not (unread := generation.next_unread()):
            return
        self._polled.add(generation.id)
        answered = self._mailbox.read(generation.id, unread)

        def arrived(answered: asyncio.Future[Exchange]) -> None:
            self._polled.discard(generation.id)
            if answered.exception() is None:
                generation.take(answered.result().traces.get(generation.id, {}))

        answered.add_done_callback(arrived)

    async def read(self, generation: Generation, *, is_urgent: bool = True) -> None:
        """Read everything that the engine has returned so far; with the last of it, the generation is over.

        Args:
            is_urgent: somebody's answer is held up by this.

        Raises:
            TracesLostError: the engine died or the exchange failed.
            ValueFailureError: the worker ended it, since a value was no number.
        """
        while True:
            before, unread = generation.unread, generation.next_unread()
            answered = self._mailbox.read(generation.id, unread, is_urgent=is_urgent) if unread else None
            is_rest = sum(len(asked.token_ids) for asked in unread.values()) == before
            if is_rest and generation.phase is Phase.TOLD:  # in the same exchange: one call an answer
                answered = self.forget(generation, is_urgent=is_urgent) or answered
            if answered is not None:
                await self._take(generation, answered)
            if is_rest or generation.unread == before:  # what the workers do not know will not come
                return

    @staticmethod
    async def _take(generation: Generation, answered: asyncio.Future[Exchange]) -> None:
        try:
            exchange = await asyncio.shield(answered)
        except EngineLostError:
            raise TracesLostError from None
        if generation.id in exchange.failed:
            raise TracesLostError
        generation.take(exchange.traces.get(generation.id, {}))
        if generation.is_aborted:
            raise ValueFailureError

    def forget(self, generation: Generation, *, is_urgent: bool = False) -> asyncio.Future[Exchange] | None:
        """End a generation: have the workers forget it, then free its id; nothing where that is under way.

        Of one that is not watched the workers keep nothing, so its id is free at once.

        Returns:
            the exchange that tells the workers, if there is one; should it fail, they are told later.
        """
        if generation.phase is Phase.OVER:
            return None
        generation.end()
        if not generation.is_watched:
            self._registry.close(generation)
            return None
        return self._mailbox.drop(generation.id, lambda: self._registry.close(generation), is_urgent=is_urgent)
