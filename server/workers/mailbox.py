"""Everything that goes to the workers and comes back, in few exchanges.

`collective_rpc` stops the engine's loop while the ranks answer. So changes, reads and drops of all generations are
gathered into one call: at most one every `interval_s`, and not two at once. The first after a pause goes at once, and
so does what a finished answer waits for, taking along whatever is there.

Somebody has a hand on a slider and waits for a change. The engine answers between two steps, so an exchange takes a
step or more, and what waited for it to end would take two. So changes go `change_interval_s` after the exchange before
them began, also while that one is under way: two at most.

In an exchange the workers first take over changes, then tell traces, then forget. What was posted earlier is never sent
later, and the engine takes calls in their order, so that a change cannot reach a worker after its generation was
dropped; and a drop is sent again until it has been delivered, so that no later generation of that id inherits anything.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from server.errors import EngineLostError
from server.workers.rpc import LIVENESS_S, EngineRpc, call_workers
from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import ChoiceName
from valuemodels.contract.trace_wire import TokenRange

logger = logging.getLogger("mavis.workers")

T = TypeVar("T")
Traces = Mapping[ChoiceName, Mapping[str, Any]]
NextTokens = Mapping[ChoiceName, int]
MOST_UNDER_WAY = 2


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the workers answered.

    Attributes:
        traces: generation id -> choice -> columns from the token asked for on (see `SequenceTrace.read`).
        failed: ids of generations whose traces the workers could not read.
        next_tokens: id of a changed generation -> choice -> index of its next token to be sampled, for the choices
            that a worker holds already.
    """

    traces: Mapping[str, Traces]
    failed: frozenset[str]
    next_tokens: Mapping[str, NextTokens]


@dataclass(slots=True)
class _Batch:
    """What goes with the next exchange, and who waits for its answer."""

    answered: asyncio.Future[Exchange]
    changes: list[Change] = field(default_factory=list)
    reads: dict[str, dict[ChoiceName, TokenRange]] = field(default_factory=dict)


class Mailbox:
    """The HTTP process's one way to the workers' traces and changes.

    What is posted together shares a future, which no caller may cancel: await it through `asyncio.shield`. It fails
    with an `EngineLostError`, and nobody needs to look at it.
    """

    def __init__(
        self,
        engine: EngineRpc,
        on_stats: Callable[[Mapping[str, Any]], None] = lambda stats: None,
        interval_s: float = 0.05,
        change_interval_s: float = 0.02,
        liveness_s: float = LIVENESS_S,
        retry_s: float = 1.0,
    ) -> None:
        """Args: `on_stats` gets the workers' counters of every exchange; `interval_s` from the end of one exchange to
        the next, `change_interval_s` from its beginning to one with changes; `liveness_s` is how often an exchange
        under way checks that the engine still lives; `retry_s` is the pause after one that failed.
        """
        self._engine = engine
        self._on_stats = on_stats
        self._interval_s = interval_s
        self._change_interval_s = change_interval_s
        self._liveness_s = liveness_s
        self._retry_s = retry_s
        self._next: _Batch | None = None
        self._drops: dict[str, Callable[[], None]] = {}
        self._due = self._change_due = 0.0
        self._is_urgent = False
        self._woken = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def ping(self) -> asyncio.Future[Exchange]:
        """Have an exchange, whatever there is to say."""
        return self._batch().answered

    def change(self, change: Change) -> asyncio.Future[Exchange]:
        """Have a change taken over; changes keep their order."""
        batch = self._batch()
        batch.changes.append(change)
        return batch.answered

    def read(
        self, generation_id: str, wanted: Mapping[ChoiceName, TokenRange], *, is_urgent: bool = False
    ) -> asyncio.Future[Exchange]:
        """Read a generation's traces.

        Args:
            wanted: choice -> the tokens whose values are wanted; not empty.
            is_urgent: somebody's answer is held up by this.
        """
        batch = self._batch()
        batch.reads.setdefault(generation_id, {}).update(wanted)
        self._is_urgent = self._is_urgent or is_urgent
        return batch.answered

    def drop(
        self, generation_id: str, on_delivered: Callable[[], None], *, is_urgent: bool = False
    ) -> asyncio.Future[Exchange]:
        """Have a generation forgotten, with its traces and changes.

        Args:
            on_delivered: called once the workers have forgotten it, or are no more; however often that is tried.
            is_urgent: as in `read`.

        Returns:
            the future of the first try.
        """
        batch = self._batch()
        self._drops[generation_id] = on_delivered
        self._is_urgent = self._is_urgent or is_urgent
        return batch.answered

    def _batch(self) -> _Batch:
        loop = asyncio.get_running_loop()
        self._woken.set()
        if self._next is None:
            self._next = _Batch(loop.create_future())
            self._next.answered.add_done_callback(mark_as_seen)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="mavis mailbox")
        return self._next

    async def _run(self) -> None:
        """Live as long as there is something to do."""
        try:
            while self._next is not None or self._under_way:
                if (wait_s := self._wait_s()) > 0:
                    self._woken.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._woken.wait(), None if math.isinf(wait_s) else wait_s)
                elif self._next is not None:
                    self._send(self._next)
        finally:
            for exchange in self._under_way:
                exchange.cancel()

    def _wait_s(self) -> float:
        """How long until the next exchange may begin, if nothing happens meanwhile."""
        if self._next is None:
            return math.inf
        now = asyncio.get_running_loop().time()
        due = math.inf
        if not self._under_way:
            due = now if self._is_urgent else self._due
        if self._next.changes and len(self._under_way) < MOST_UNDER_WAY:
            due = min(due, self._change_due)
        return due - now

    def _send(self, batch: _Batch) -> None:
        loop = asyncio.get_running_loop()
        self._next, self._is_urgent = None, False
        self._change_due = loop.time() + self._change_interval_s
        exchange = loop.create_task(self._exchange(batch), name="mavis exchange")
        self._under_way.add(exchange)
        exchange.add_done_callback(self._ended)

    def _ended(self, exchange: asyncio.Task[None]) -> None:
        self._under_way.discard(exchange)
        self._woken.set()

    async def _exchange(self, batch: _Batch) -> None:
        drops = dict(self._drops)
        is_done = await self._carry_out(batch, sorted(drops))
        now = asyncio.get_running_loop().time()
        self._due = now + (self._interval_s if is_done else self._retry_s)
        if is_done:
            for generation_id, on_delivered in drops.items():
                # Unless another exchange has delivered it, and a later generation of that id has ended since.
                if self._drops.get(generation_id) is on_delivered:
                    self._drops.pop(generation_id)()
            return
        self._change_due = self._due
        if self._drops:
            self._batch()

    async def _carry_out(self, batch: _Batch, drops: list[str]) -> bool:
        """Whether it came about, or never will."""
        try:
            batch.answered.set_result(await self._call(batch, drops))
        except asyncio.CancelledError:
            batch.answered.set_exception(EngineLostError("the server is shutting down"))
            raise
        except Exception as error:
            reason = error.reason if isinstance(error, EngineLostError) else repr(error)
            logger.warning("an exchange with the workers failed: %s", reason)
            batch.answered.set_exception(EngineLostError(reason))
            return self._engine.errored
        return True

    async def _call(self, batch: _Batch, drops: list[str]) -> Exchange:
        answers = await call_workers(
            self._engine,
            "mavis_exchange",
            [change.to_wire() for change in batch.changes],
            {gid: {str(choice): part for choice, part in wanted.items()} for gid, wanted in batch.reads.items()},
            drops,
            liveness_s=self._liveness_s,
        )
        self._on_stats({name: sum(each["stats"][name] for each in answers) for name in answers[0]["stats"]})
        failed = frozenset(generation_id for each in answers for generation_id in each["failed"])
        return Exchange(_by_choice(answers, "traces"), failed, _by_choice(answers, "next_tokens"))


def _by_choice(answers: Sequence[Mapping[str, Any]], what: str) -> dict[str, dict[ChoiceName, Any]]:
    """Of all engines: the choices of one generation may run on several."""
    found: dict[str, dict[ChoiceName, Any]] = {}
    for answer in answers:
        for generation_id, choices in answer[what].items():
            found.setdefault(generation_id, {}).update(of_choices(choices))
    return found


def of_choices(wire: Mapping[str, T]) -> dict[ChoiceName, T]:
    """What a worker tells of each choice, by the choices' names."""
    return {ChoiceName.parse(name): value for name, value in wire.items()}


def mark_as_seen(answered: asyncio.Future[Any]) -> None:
    """Otherwise asyncio would report an error that nobody waited for."""
    if not answered.cancelled():
        answered.exception()
