"""What each sampled token did for each objective, kept in the worker until the response has been told.

A step is recorded before its token is sampled, so a step waits, with its candidates, until the token is known: the
next step of the same sequence, or the read after the last one, settles it.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from valuemodels.guidance import TraceDetail

_UNKNOWN_TOKEN = -1


@dataclass(frozen=True, slots=True)
class Step:
    """One scored step of one sequence, as plain numbers.

    Attributes:
        token_ids: the candidates.
        kl: nats.
        values, levels: [candidate][objective] centred values in base standard deviations, and expected final rewards
            in the reward's own units.
        base_logprobs, logprobs: of the candidates, before and after the tilt.
    """

    token_ids: list[int]
    kl: float
    values: list[list[float]]
    levels: list[list[float]]
    base_logprobs: list[float]
    logprobs: list[float]


@dataclass(slots=True)
class SequenceTrace:
    """The trace of one choice: an entry for every output token from the first on.

    Attributes:
        output: the engine's live list of sampled tokens.
    """

    detail: TraceDetail
    output: Sequence[int]
    kl: list[float] = field(default_factory=list)
    values: list[list[float] | None] = field(default_factory=list)
    levels: list[list[float] | None] = field(default_factory=list)
    candidates: list[list[dict[str, Any]]] = field(default_factory=list)
    waiting: Step | None = None

    def record(self, step: Step | None) -> None:
        """Note the step that samples the token after `output`. None: the row was not scored.

        Scoring the same position again (a chunk of the prompt, a step the engine repeated) replaces what was noted.
        """
        self.settle()
        position = len(self.output)
        for column in (self.kl, self.values, self.levels, self.candidates):
            del column[position:]
        while len(self.kl) < position:
            self._append(None, _UNKNOWN_TOKEN)
        self.waiting = step

    def settle(self) -> None:
        """Enter the waiting step, if its token has been sampled by now."""
        position = len(self.kl)
        if position >= len(self.output) or self.output[position] == _UNKNOWN_TOKEN:
            return
        self._append(self.waiting, self.output[position])
        self.waiting = None

    def read(self, start: int) -> dict[str, Any]:
        """Everything known from token `start` on, as plain data for the RPC."""
        self.settle()
        stop = len(self.kl)
        wire: dict[str, Any] = {
            "from": start,
            "token_ids": list(self.output[start:stop]),
            "kl": self.kl[start:],
            "values": self.values[start:],
            "levels": self.levels[start:],
        }
        if self.detail == "candidates":
            wire["candidates"] = self.candidates[start:]
        return wire

    def _append(self, step: Step | None, token_id: int) -> None:
        chosen = step.token_ids.index(token_id) if step is not None and token_id in step.token_ids else None
        self.kl.append(0.0 if step is None else step.kl)
        self.values.append(None if step is None or chosen is None else step.values[chosen])
        self.levels.append(None if step is None or chosen is None else step.levels[chosen])
        if self.detail == "candidates":
            self.candidates.append([] if step is None else _candidate_table(step))


class TraceStore:
    """Traces by generation and choice, bounded in number; the oldest generation goes first."""

    def __init__(self, max_generations: int) -> None:
        self.max_generations = max_generations
        self._generations: OrderedDict[str, dict[str, SequenceTrace]] = OrderedDict()

    def open(self, generation_id: str, choice: str, detail: TraceDetail, output: Sequence[int]) -> SequenceTrace:
        """The choice's trace, made on first use and following `output` from now on."""
        choices = self._generations.setdefault(generation_id, {})
        trace = choices.get(choice)
        if trace is None:
            trace = choices[choice] = SequenceTrace(detail, output)
        trace.output = output
        while len(self._generations) > self.max_generations:
            self._generations.popitem(last=False)
        return trace

    def read(self, wanted: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Any]]:
        """Traces of the generations asked for; per choice from the token given, from 0 where none is."""
        return {
            generation_id: {
                choice: trace.read(starts.get(choice, 0))
                for choice, trace in self._generations[generation_id].items()
                if not starts or choice in starts
            }
            for generation_id, starts in wanted.items()
            if generation_id in self._generations
        }

    def drop(self, generation_ids: Sequence[str]) -> None:
        """Forget these generations; unknown ones are ignored."""
        for generation_id in generation_ids:
            self._generations.pop(generation_id, None)


def _candidate_table(step: Step) -> list[dict[str, Any]]:
    rows = zip(step.token_ids, step.base_logprobs, step.logprobs, step.values, strict=True)
    return [
        {"token_id": token_id, "logprob": base, "tilted_logprob": tilted, "values": values}
        for token_id, base, tilted, values in rows
    ]
