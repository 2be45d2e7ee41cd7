"""Values on their way from the worker into the responses: one reader for everybody, few calls.

`collective_rpc` stops the engine's loop while the ranks answer. So polls of all streams are gathered into one call,
at most every `interval_s`; a read that a finished answer waits for goes at once and takes along whatever is pending;
and there is never more than one call under way.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from server.errors import TracesLostError
from server.generations.generation import Generation
from server.generations.registry import Registry
from server.workers.rpc import LIVENESS_S, EngineRpc, call_workers

logger = logging.getLogger("mavis.traces")


class TraceReader:
    """Reads traces for all live generations, and makes the worker forget those that ended before their id is free.

    An id that were free earlier could be taken by a new generation, whose trace the late `drop` would hit.
    """

    def __init__(
        self,
        engine: EngineRpc,
        live: Registry,
        on_stats: Callable[[Mapping[str, Any]], None] = lambda stats: None,
        interval_s: float = 0.05,
        liveness_s: float = LIVENESS_S,
    ) -> None:
        """Args: `on_stats` gets the worker's `stats` of every call; `liveness_s` is how often a call under way
        checks that the engine still lives.
        """
        self._engine = engine
        self._live = live
        self._on_stats = on_stats
        self._interval_s = interval_s
        self._liveness_s = liveness_s
        self._polls: dict[str, Generation] = {}
        self._reads: list[tuple[Generation, asyncio.Future[None]]] = []
        self._drops: dict[str, Generation] = {}
        self._urgent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def poll(self, generation: Generation) -> None:
        """Ask for what is new, some time soon; what arrives is in the generation's choices."""
        self._polls[generation.id] = generation
        self._wake()

    async def read(self, generation: Generation, *, drop: bool, waits: bool = False) -> None:
        """Read everything that the engine has returned so far, now.

        Args:
            drop: the generation is over; the worker may forget it, and its id becomes free.
            waits: nobody's answer is held up, so this goes with the polls.

        Raises:
            TracesLostError: the engine died or the call failed.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reads.append((generation, done))
        if drop:
            generation.is_over = True
            self._drops[generation.id] = generation
        if not waits:
            self._urgent.set()
        self._wake()
        await done

    def drop(self, generation: Generation) -> None:
        """Make the worker forget a generation and free its id, some time soon; nothing where that is done already.

        Of one that nobody watches the worker keeps nothing, so its id is free at once.
        """
        self._polls.pop(generation.id, None)
        generation.is_over = True
        if not generation.is_watched:
            self._live.close(generation)
        elif self._live.get(generation.id) is generation:
            self._drops[generation.id] = generation
            self._wake()

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="mavis traces")

    async def _run(self) -> None:
        """Live as long as there is something to do."""
        while self._polls or self._reads or self._drops:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), self._interval_s)
            await self._flush()

    async def _flush(self) -> None:
        polls, self._polls = self._polls, {}
        reads, self._reads = self._reads, []
        drops, self._drops = self._drops, {}
        self._urgent.clear()
        generations = polls | {generation.id: generation for generation, _ in reads}
        unread = {gid: missing for gid, generation in generations.items() if (missing := generation.unread())}
        try:
            if unread or drops:
                answer = await self._call(unread, sorted(drops))
                for gid, traces in answer["traces"].items():
                    generations[gid].take(traces)
        except Exception as error:
            logger.warning("the values of %d generations could not be read: %r", len(generations), error)
            self._settle(reads, TracesLostError(f"the values could not be read from the engine: {error}"))
        except asyncio.CancelledError:
            self._settle(reads, TracesLostError("the server is shutting down"))
            raise
        else:
            self._settle(reads, None)
        finally:
            for generation in drops.values():
                self._live.close(generation)

    @staticmethod
    def _settle(reads: list[tuple[Generation, asyncio.Future[None]]], error: TracesLostError | None) -> None:
        for _, done in reads:
            if done.done():  # the client went away meanwhile
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    async def _call(self, unread: Mapping[str, Mapping[str, int]], drops: list[str]) -> Mapping[str, Any]:
        answer = await call_workers(self._engine, "mavis_traces", unread, drops, liveness_s=self._liveness_s)
        self._on_stats(answer["stats"])
        return answer
