"""What a response says about values: the `mavis` block of a choice. Pure functions of a trace; no IO, no vLLM.

`values` in a block are advantages: what a token did for an objective, against the base's expectation. A trace may know
more tokens than the client got, since stop strings are found after the worker has sampled on. So everything here takes
the number of tokens that were returned and cuts there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from server.generations.choice import Choice, Setting
from valuemodels.contract.guidance import ResolvedGuidance
from valuemodels.contract.trace_wire import Candidate


@dataclass(frozen=True, slots=True)
class MavisBlock:
    """Writes the block; its numbers stand in a trace without names.

    Attributes:
        objectives: names, in the policy's order, which is the order of every list of numbers in a trace.
        checkpoint: id of the value checkpoint; of several, joined by "+".
    """

    objectives: tuple[str, ...]
    checkpoint: str

    def whole(self, choice: Choice, resolved: ResolvedGuidance) -> dict[str, Any]:
        """The block of a choice that has got its last token: totals, and what was not streamed yet."""
        block = self.totals(choice, resolved)
        if resolved.shows_tokens:
            block["tokens"] = self.tokens(choice, resolved)
        return block | self.steering(choice, resolved, choice.returned)

    def totals(self, choice: Choice, resolved: ResolvedGuidance) -> dict[str, Any]:
        """What held in the end, what it cost and what the sampled tokens did for each objective.

        `kl` is null and `values` empty where the worker no longer knew the trace: part of a sum would be a wrong sum.
        """
        values = {} if choice.unread else self._sums(choice.trace.advantages[: choice.returned])
        last = self._settings(choice, resolved, choice.returned)[-1]
        return {
            "objective_weights": self._weights(last),
            "beta": last.beta,
            "scoring": resolved.scoring,
            "checkpoint": self.checkpoint,
            "kl": choice.kl_nats,
            "values": values,
            "fallback_tokens": choice.fallback_tokens,
            **self._pinned(resolved),
        }

    def tokens(self, choice: Choice, resolved: ResolvedGuidance) -> list[dict[str, Any]]:
        """Entries of the tokens that were returned and not yet streamed, as far as they are known."""
        stop = min(choice.returned, len(choice.trace))
        return [self._token(choice, at, resolved) for at in range(choice.streamed, stop)]

    def steering(self, choice: Choice, resolved: ResolvedGuidance, stop: int) -> dict[str, Any]:
        """`{"steering": [...]}` with what held up to token `stop` and was not streamed yet; empty where nothing
        changed.
        """
        settings = self._settings(choice, resolved, stop)
        unsent = settings[choice.streamed_settings :]
        if settings == [Setting.at_start(resolved)] or not unsent:
            return {}
        return {"steering": [self._setting(setting) for setting in unsent]}

    def so_far(
        self, choice: Choice, resolved: ResolvedGuidance, now: ResolvedGuidance, tokens: range
    ) -> dict[str, Any]:
        """The block of a choice that may still run: what holds now, and everything that is known up to here.

        Args:
            resolved: what it began with.
            tokens: those that are told of one by one.
        """
        stop = min(choice.returned, len(choice.trace))
        kl_nats = math.fsum(choice.trace.kl[:stop])
        return {
            "objective_weights": dict(zip(self.objectives, now.weights, strict=True)),
            "beta": now.beta,
            "kl_budget": now.kl_budget,
            "scoring": resolved.scoring,
            "checkpoint": self.checkpoint,
            "kl": _finite(kl_nats),
            "values": self._sums(choice.trace.advantages[:stop]),
            "fallback_tokens": choice.fallback_tokens,
            **self._pinned(resolved),
            "tokens": [self._token(choice, at, resolved) for at in tokens if at < stop],
            "steering": [self._setting(setting) for setting in self._settings(choice, resolved, stop)],
        }

    def _settings(self, choice: Choice, resolved: ResolvedGuidance, stop: int) -> list[Setting]:
        """What held for the tokens before `stop`; never empty. Before the worker valued any, what it began with."""
        found = [setting for setting in choice.trace.settings if setting.from_token < stop]
        start = Setting.at_start(resolved)
        if not found or found[0].from_token > 0:
            found = found[1:] if found and found[0][1:] == start[1:] else found
            return [start, *found]
        return found

    def _setting(self, setting: Setting) -> dict[str, Any]:
        return {
            "from_token": setting.from_token,
            "objective_weights": self._weights(setting),
            "beta": setting.beta,
            "kl_budget": setting.kl_budget,
        }

    def _weights(self, setting: Setting) -> dict[str, float]:
        return dict(zip(self.objectives, setting.weights, strict=True))

    def _pinned(self, resolved: ResolvedGuidance) -> dict[str, Any]:
        """The strengths that hold whatever the request says; nothing where the operator has set no floor."""
        pinned = {name: pin for name, pin in zip(self.objectives, resolved.pins, strict=True) if pin}
        return {"pinned": pinned} if pinned else {}

    def _token(self, choice: Choice, at: int, resolved: ResolvedGuidance) -> dict[str, Any]:
        trace = choice.trace
        entry: dict[str, Any] = {
            "token_id": choice.token_ids[at],
            "kl": _finite(trace.kl[at]),
            "values": self._named(trace.advantages[at]),
        }
        if resolved.scoring == "exact":
            entry["levels"] = self._named(trace.levels[at])
        if resolved.candidate_min_p:
            entry["dropped_mass"] = _finite(trace.dropped[at])
        if resolved.trace == "candidates":
            entry["candidates"] = [self._candidate(candidate) for candidate in trace.candidates[at].unpack()]
        return entry

    def _candidate(self, candidate: Candidate) -> dict[str, Any]:
        return {
            "token_id": candidate.token_id,
            "logprob": _finite(candidate.logprob),
            "tilted_logprob": _finite(candidate.tilted_logprob),
            "values": self._named(candidate.advantages) or {},
        }

    def _named(self, numbers: Sequence[float] | None) -> dict[str, float] | None:
        if not _is_scored(numbers):
            return None
        return dict(zip(self.objectives, numbers, strict=True))

    def _sums(self, advantages: Sequence[Sequence[float] | None]) -> dict[str, float]:
        scored = [numbers for numbers in advantages if _is_scored(numbers)]
        return {name: math.fsum(numbers[i] for numbers in scored) for i, name in enumerate(self.objectives)}


def _is_scored(numbers: Sequence[float] | None) -> TypeGuard[Sequence[float]]:
    """Whether there are numbers, all of which JSON can carry."""
    return numbers is not None and all(map(math.isfinite, numbers))


def _finite(number: float) -> float | None:
    """JSON has no infinities."""
    return number if math.isfinite(number) else None
