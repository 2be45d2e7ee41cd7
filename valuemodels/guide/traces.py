"""What each sampled token did for each objective, kept in the worker until the response has been told.

A step is recorded before its tokens are sampled, so it waits, as one record of the whole batch, until they are known:
the next step of the same sequences, or the read after the last one, settles it.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from valuemodels.contract.guidance import ChoiceName, ResolvedGuidance, TraceDetail
from valuemodels.scoring.rows import Row
from valuemodels.tilting import advantages_of

_UNKNOWN_TOKEN = -1


@dataclass(frozen=True, slots=True, eq=False)
class StepRecord:
    """One scored step of a batch.

    Attributes:
        token_ids: [rows, k] the candidates; base_logprobs, logprobs: [rows, k] theirs before and after the tilt, -inf
            where there is none.
        values: [rows, k, objectives] in standard deviations of the base's reward.
        kl: [rows] nats.
        is_scored: [rows] bool, False where the row fell back to the base.
        gives_levels: [rows] bool, True where the values are expected final rewards.
        means, stds: [objectives] of the base's reward.
    """

    token_ids: Tensor
    values: Tensor
    base_logprobs: Tensor
    logprobs: Tensor
    kl: Tensor
    is_scored: Tensor
    gives_levels: Tensor
    means: Tensor
    stds: Tensor

    def settle(self, rows: Sequence[int], token_ids: Sequence[int]) -> list["TokenEntry"]:
        """What the sampled tokens of some rows did: one copy from the device, whatever the number of rows."""
        index = torch.tensor(rows, device=self.kl.device)
        sampled = torch.tensor(token_ids, device=self.kl.device)
        base = self.base_logprobs[index]
        hit = (self.token_ids[index] == sampled[:, None]) & (base > float("-inf"))
        objectives = self.values.shape[-1]
        place = hit.to(torch.uint8).argmax(1)[:, None, None].expand(-1, 1, objectives)
        values = self.values[index]
        advantages = advantages_of(values, base).gather(1, place)[:, 0]
        levels = values.gather(1, place)[:, 0] * self.stds + self.means
        is_scored = self.is_scored[index]
        kl, known = torch.where(is_scored, self.kl[index], 0.0), is_scored & hit.any(1)
        flags = torch.stack([kl, known.float(), (known & self.gives_levels[index]).float()], dim=1)
        columns = torch.cat([flags, advantages, levels], dim=1).tolist()
        return [
            TokenEntry(
                kl=row[0],
                advantages=row[3 : 3 + objectives] if row[1] else None,
                levels=row[3 + objectives :] if row[2] else None,
            )
            for row in columns
        ]

    def candidate_table(self, row: int) -> list[dict[str, Any]]:
        """Every candidate of a row; empty where it fell back."""
        if not self.is_scored[row]:
            return []
        base, logprobs = self.base_logprobs[row].tolist(), self.logprobs[row].tolist()
        advantages = advantages_of(self.values[row][None], self.base_logprobs[row][None])[0].tolist()
        return [
            {"token_id": token_id, "logprob": base[i], "tilted_logprob": logprobs[i], "advantages": advantages[i]}
            for i, token_id in enumerate(self.token_ids[row].tolist())
            if base[i] > float("-inf")
        ]


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """One sampled token.

    Attributes:
        kl: nats.
        advantages: one an objective; None where the token was not among the scored candidates.
        levels: expected final rewards in the rewards' own units; None where scoring gives none.
    """

    kl: float = 0.0
    advantages: list[float] | None = None
    levels: list[float] | None = None


@dataclass(slots=True, eq=False)
class SequenceTrace:
    """The trace of one choice: an entry for every output token from the first on.

    Attributes:
        output: the engine's live list of sampled tokens.
        waiting: the record whose token is not known yet, and this sequence's row in it.
        settings: (first token, what held from there on), wherever that changed; empty while nothing was scored.
    """

    detail: TraceDetail
    output: Sequence[int]
    entries: list[TokenEntry] = field(default_factory=list)
    candidates: list[list[dict[str, Any]]] = field(default_factory=list)
    waiting: tuple[StepRecord, int] | None = None
    settings: list[tuple[int, ResolvedGuidance]] = field(default_factory=list)

    def wait(self, record: StepRecord, row: int, guidance: ResolvedGuidance) -> None:
        """Note the step that samples the token after `output`. Everything that was waiting must be settled.

        Scoring the same position again (a chunk of the prompt, a step the engine repeated) replaces what was noted.
        """
        position = len(self.output)
        del self.entries[position:], self.candidates[position:]
        while len(self.entries) < position:
            self.enter(TokenEntry(), None, 0)
        self.waiting = (record, row)
        while self.settings and self.settings[-1][0] >= position:
            self.settings.pop()
        if not self.settings or self.settings[-1][1] != guidance:
            self.settings.append((position, guidance))

    @property
    def due(self) -> int | None:
        """The sampled token that the waiting step is about; None where nothing waits or it is not known yet."""
        position = len(self.entries)
        if self.waiting is None or position >= len(self.output) or self.output[position] == _UNKNOWN_TOKEN:
            return None
        return self.output[position]

    def enter(self, entry: TokenEntry, record: StepRecord | None, row: int) -> None:
        """Append the next token's entry."""
        self.entries.append(entry)
        if self.detail == "candidates":
            self.candidates.append([] if record is None else record.candidate_table(row))
        self.waiting = None

    def read(self, start: int) -> dict[str, Any]:
        """Everything known from token `start` on, as plain data for the RPC."""
        settle([self])
        stop = len(self.entries)
        wire: dict[str, Any] = {
            "from": start,
            "token_ids": list(self.output[start:stop]),
            "kl": [entry.kl for entry in self.entries[start:]],
            "advantages": [entry.advantages for entry in self.entries[start:]],
            "levels": [entry.levels for entry in self.entries[start:]],
            "settings": self._settings_since(start),
        }
        if self.detail == "candidates":
            wire["candidates"] = self.candidates[start:]
        return wire

    def _settings_since(self, start: int) -> list[list[Any]]:
        """[first token, weights, beta, KL budget] of what held at token `start` and of what came after it."""
        in_force = sum(first <= start for first, _ in self.settings) - 1
        since = self.settings[max(in_force, 0) :]
        return [[first, list(held.weights), held.beta, held.kl_budget] for first, held in since]


def settle(traces: Sequence[SequenceTrace]) -> None:
    """Enter every waiting step whose token has been sampled by now; the rows of one step together."""
    together: dict[StepRecord, list[tuple[SequenceTrace, int, int]]] = {}
    for trace in traces:
        token_id = trace.due
        if token_id is not None and trace.waiting is not None:
            record, row = trace.waiting
            together.setdefault(record, []).append((trace, row, token_id))
    for record, due in together.items():
        entries = record.settle([row for _, row, _ in due], [token_id for _, _, token_id in due])
        for (trace, row, _), entry in zip(due, entries, strict=True):
            trace.enter(entry, record, row)


class TraceStore:
    """Traces by generation and choice, bounded in number; the oldest generation goes first."""

    def __init__(self, max_generations: int) -> None:
        self.max_generations = max_generations
        self._generations: OrderedDict[str, dict[ChoiceName, SequenceTrace]] = OrderedDict()

    def record(self, step: StepRecord, rows: Sequence[Row]) -> None:
        """Note a step of the batch. Rows without a generation leave no trace."""
        traces = [(r, self._open(row)) for r, row in enumerate(rows) if row.generation_id]
        settle([trace for _, trace in traces])
        for r, trace in traces:
            trace.wait(step, r, rows[r].guidance)

    def read(self, wanted: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Any]]:
        """Traces of the generations asked for, ready for the way between processes.

        Args:
            wanted: generation id -> `str` of a choice -> first token wanted; no choices = all of them, from token 0.
        """
        return {
            generation_id: {
                str(choice): trace.read(starts.get(str(choice), 0))
                for choice, trace in self._generations[generation_id].items()
                if not starts or str(choice) in starts
            }
            for generation_id, starts in wanted.items()
            if generation_id in self._generations
        }

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
