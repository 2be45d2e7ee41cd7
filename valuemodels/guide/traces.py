"""What each sampled token did for each objective, kept in the worker until the response has been told.

A step is recorded before its tokens are sampled, and nobody needs it at once. So it waits on the device, as one record
of the whole batch; every few steps what has been sampled by then is settled together, and read once it has come to the
host. Whoever reads a trace meanwhile waits for it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from typing import Any

from valuemodels.contract.guidance import ChoiceName, ResolvedGuidance, TraceDetail
from valuemodels.contract.trace_wire import NO_CANDIDATES, CandidateColumns, TokenRange
from valuemodels.guide.step_record import Backlog, StepRecord, TokenEntry, columns_of, entries_of, join
from valuemodels.scoring.rows import UNKNOWN_TOKEN, Row
from valuemodels.transfers import Arrival

Waiting = tuple[StepRecord, int]
"""A step that waits for its token, and the row in it."""


@dataclass(slots=True, eq=False)
class SequenceTrace:
    """The trace of one choice: an entry for every output token from the first on.

    Attributes:
        output: the engine's live list of sampled tokens.
        waiting: of the tokens after the last entry, one by one, the record and this sequence's row in it; None where
            the token's step was not scored.
        settings: (first token, what held from there on), wherever that changed; empty while nothing was scored.
    """

    detail: TraceDetail
    output: Sequence[int]
    entries: list[TokenEntry] = field(default_factory=list)
    candidates: list[CandidateColumns] = field(default_factory=list)
    waiting: list[Waiting | None] = field(default_factory=list)
    settings: list[tuple[int, ResolvedGuidance]] = field(default_factory=list)

    def wait(self, record: StepRecord, row: int, position: int, guidance: ResolvedGuidance) -> None:
        """Note the step that samples the token at a position.

        Scoring a position again replaces what was noted there: a chunk of the prompt, a step that the engine repeated,
        a draft that was refused.
        """
        del self.entries[position:], self.candidates[position:]
        before = position - len(self.entries)
        del self.waiting[before:]
        self.waiting += [None] * (before - len(self.waiting))
        self.waiting.append((record, row))
        while self.settings and self.settings[-1][0] >= position:
            self.settings.pop()
        held = self.settings[-1][1] if self.settings else None
        if held is not guidance and held != guidance:  # mostly it is the same object, and they are long
            self.settings.append((position, guidance))

    def due(self, told: TokenRange | None = None) -> list[int]:
        """The sampled tokens that the waiting steps are about, as far as they are known.

        Args:
            told: what the engine has returned, for tokens that `output` does not hold.
        """
        first = len(self.entries)
        tokens = (self._token(position, told) for position in range(first, first + len(self.waiting)))
        return list(takewhile(lambda token: token != UNKNOWN_TOKEN, tokens))

    def _token(self, position: int, told: TokenRange | None) -> int:
        if position < len(self.output) and self.output[position] != UNKNOWN_TOKEN:
            return self.output[position]
        if told is not None and told.start <= position < told.start + len(told.token_ids):
            return told.token_ids[position - told.start]
        return UNKNOWN_TOKEN

    def enter(self, entry: TokenEntry, candidates: CandidateColumns) -> None:
        """Append the next token's entry, in place of the first step that waits."""
        self.entries.append(entry)
        if self.detail == "candidates":
            self.candidates.append(candidates)
        del self.waiting[0]

    def read(self, told: TokenRange | None = None) -> dict[str, Any]:
        """The tokens asked for, as far as they are known, as plain data for the RPC. None: everything."""
        Settlement([self], told).enter()
        start = 0 if told is None else told.start
        stop = len(self.entries) if told is None else min(len(self.entries), start + len(told.token_ids))
        entries = self.entries[start:stop]
        wire: dict[str, Any] = {
            "from": start,
            "token_ids": list(self.output[start:stop]) if told is None else list(told.token_ids[: stop - start]),
            "kl": [entry.kl for entry in entries],
            "dropped": [entry.dropped for entry in entries],
            "log_ratios": [entry.log_ratio for entry in entries],
            "advantages": [entry.advantages for entry in entries],
            "levels": [entry.levels for entry in entries],
            "fell_back": [entry.fell_back for entry in entries],
            "is_aborted": any(entry.is_aborted for entry in entries),
            "settings": self._settings_since(start),
        }
        if self.detail == "candidates":
            wire["candidates"] = [columns.to_wire() for columns in self.candidates[start:stop]]
        return wire

    def _settings_since(self, start: int) -> list[list[Any]]:
        """[first token, weights, beta, KL budget] of what held at token `start` and of what came after it."""
        in_force = sum(first <= start for first, _ in self.settings) - 1
        since = self.settings[max(in_force, 0) :]
        return [[first, list(held.weights), held.beta, held.kl_budget] for first, held in since]


class Settlement:
    """What sampled tokens did, on its way to the host; together, since a step's record alone would take as long."""

    def __init__(self, traces: Sequence[SequenceTrace], told: TokenRange | None = None) -> None:
        """Of every waiting step whose token has been sampled by now.

        Args:
            told: see `SequenceTrace.due`; of a single trace.
        """
        self._due = [(trace, list(zip(trace.waiting, trace.due(told), strict=False))) for trace in traces]
        scored = {waiting: token for _, due in self._due for waiting, token in due if waiting is not None}
        detailed = [w for trace, due in self._due if trace.detail == "candidates" for w, _ in due if w is not None]
        self._order, self._outcomes = self._sent(scored)
        self._detailed, self._candidates = self._sent_candidates(detailed)

    @property
    def is_here(self) -> bool:
        """Whether `enter` need not wait."""
        return all(arrival.is_here for arrival in (*self._outcomes, *self._candidates))

    def enter(self) -> None:
        """Enter it into the traces, as far as they wait for the same steps still."""
        found = [entries_of(outcomes.read()) for outcomes in self._outcomes]
        entries = dict(zip(self._order, *found, strict=True)) if found else {}
        columns = columns_of(*(arrival.read() for arrival in self._candidates)) if self._candidates else []
        candidates = dict(zip(self._detailed, columns, strict=True))
        for trace, due in self._due:
            for waiting, _ in due:
                if not trace.waiting or trace.waiting[0] is not waiting:
                    break  # scored again meanwhile
                entry = TokenEntry() if waiting is None else entries[waiting]
                trace.enter(entry, NO_CANDIDATES if waiting is None else candidates.get(waiting, NO_CANDIDATES))

    @staticmethod
    def _sent(tokens: Mapping[Waiting, int]) -> tuple[list[Waiting], list[Arrival]]:
        if not tokens:
            return [], []
        joined, order = _joined(tokens)
        return order, [Arrival(joined.outcomes([tokens[waiting] for waiting in order]))]

    @staticmethod
    def _sent_candidates(wanted: Sequence[Waiting]) -> tuple[list[Waiting], list[Arrival]]:
        if not wanted:
            return [], []
        joined, order = _joined(wanted)
        return order, [Arrival(tensor) for tensor in joined.candidates()]


def _joined(wanted: Iterable[Waiting]) -> tuple[StepRecord, list[Waiting]]:
    """Rows of any steps as one record, and which row of it is whose."""
    rows: dict[StepRecord, list[int]] = {}
    for record, row in wanted:
        rows.setdefault(record, []).append(row)
    # Joined first and selected from once: a record alone would take as many operations as all of them together.
    starts = accumulate((len(record.dropped) for record in rows), initial=0)
    index = [start + row for start, some in zip(starts, rows.values(), strict=False) for row in some]
    return join(list(rows)).select(index), [(record, row) for record, some in rows.items() for row in some]


class TraceStore:
    """Traces by generation and choice, bounded in number; the oldest generation goes first."""

    def __init__(self, max_generations: int) -> None:
        self.max_generations = max_generations
        self._generations: OrderedDict[str, dict[ChoiceName, SequenceTrace]] = OrderedDict()
        self._backlog = Backlog()
        self._running: list[SequenceTrace] = []
        self._coming: Settlement | None = None

    def __len__(self) -> int:
        """How many generations have one."""
        return len(self._generations)

    def record(self, step: StepRecord, rows: Sequence[Row]) -> None:
        """Note a step of the batch. Rows without a generation leave no trace."""
        traces = [(r, self._open(row)) for r, row in enumerate(rows) if row.generation_id]
        if self._coming is not None and self._coming.is_here:
            self._finish()
        if self._backlog.is_full(len(rows)):
            self._finish()
            self._coming = Settlement(list(dict.fromkeys(trace for _, trace in traces)))
        for r, trace in traces:
            trace.wait(step, r, rows[r].position, rows[r].guidance)
        # One that has drafts has several rows.
        self._running = list(dict.fromkeys(trace for _, trace in traces))

    def read(self, wanted: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, dict[str, Any]]:
        """Traces of the generations asked for, ready for the way between processes.

        Args:
            wanted: generation id -> `str` of a choice -> a `TokenRange`; no choices = everything of all of them.
        """
        # All that run, together: they wait for the same steps, and will be read soon.
        self._finish()
        Settlement(self._running).enter()
        return {
            generation_id: {
                str(choice): trace.read(TokenRange(*ranges[str(choice)]) if ranges else None)
                for choice, trace in self._generations[generation_id].items()
                if not ranges or str(choice) in ranges
            }
            for generation_id, ranges in wanted.items()
            if generation_id in self._generations
        }

    def _finish(self) -> None:
        if self._coming is not None:
            self._coming.enter()
            self._coming = None

    def drop(self, generation_ids: Sequence[str]) -> None:
        """Forget these generations; unknown ones are ignored."""
        for generation_id in generation_ids:
            self._generations.pop(generation_id, None)

    def _open(self, row: Row) -> SequenceTrace:
        """The choice's trace, made on first use and following the row's `output` from now on."""
        choices = self._generations.setdefault(row.generation_id, {})
        trace = choices.get(row.choice)
        if trace is None:
            trace = choices[row.choice] = SequenceTrace(row.guidance.trace, row.output)
        trace.output = row.output
        while len(self._generations) > self.max_generations:
            self._generations.popitem(last=False)
        return trace
