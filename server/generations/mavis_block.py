"""What a response says about values: the `mavis` block of a choice. Pure functions of a trace; no IO, no vLLM.

A trace may know more tokens than the client got, since stop strings are found after the worker has sampled on. So
everything here takes the number of tokens that were returned and cuts there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from server.generations.choice import Choice, Setting, TokenTrace
from valuemodels.contract.guidance import ResolvedGuidance


@dataclass(frozen=True, slots=True)
class MavisBlock:
    """What the numbers of a trace stand for.

    Attributes:
        objectives: names, in the policy's order, which is the order of every list of numbers in a trace.
        checkpoint: id of the value checkpoint; of several, joined by "+".
    """

    objectives: tuple[str, ...]
    checkpoint: str

    def whole(self, choice: Choice, resolved: ResolvedGuidance) -> dict[str, Any]:
        """The block of a finished choice: totals, and all tokens where the client asked for them."""
        block = self.totals(choice, resolved)
        if resolved.trace != "totals":
            block["tokens"] = self.tokens(choice, resolved)
        return block | self.steering(choice, resolved, choice.returned)

    def totals(self, choice: Choice, resolved: ResolvedGuidance) -> dict[str, Any]:
        """What held in the end, what it cost and what the sampled tokens did for each objective.

        `kl` is null and `values` empty where the worker no longer knew the trace: part of a sum would be a wrong sum.
        """
        values = {} if choice.is_behind else self._sums(choice.trace.values[: choice.returned])
        last = self._settings(choice, resolved, choice.returned)[-1]
        return {
            "objective_weights": self._weights(last),
            "beta": last.beta,
            "scoring": resolved.scoring,
            "checkpoint": self.checkpoint,
            "kl": choice.kl_nats,
            "values": values,
        }

    def tokens(self, choice: Choice, resolved: ResolvedGuidance) -> list[dict[str, Any]]:
        """Entries of the tokens that were returned and not yet streamed, as far as they are known."""
        stop = min(choice.returned, len(choice.trace))
        entries = [self._token(choice.trace, at, resolved) for at in range(choice.streamed, stop)]
        choice.streamed = max(choice.streamed, stop)
        return entries

    def steering(self, choice: Choice, resolved: ResolvedGuidance, stop: int) -> dict[str, Any]:
        """`{"steering": [...]}` with what held up to token `stop` and was not told yet; empty where nothing changed."""
        settings = self._settings(choice, resolved, stop)
        untold = settings[choice.told_settings :]
        if settings == [Setting.at_start(resolved)] or not untold:
            return {}
        choice.told_settings = len(settings)
        return {"steering": [self._setting(setting) for setting in untold]}

    def so_far(self, choice: Choice, resolved: ResolvedGuidance, now: ResolvedGuidance) -> dict[str, Any]:
        """The block of a choice that may still run: what holds now, and everything that is known up to here.

        Args:
            resolved: what it began with.
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
            "values": self._sums(choice.trace.values[:stop]),
            "tokens": [self._token(choice.trace, at, resolved) for at in range(stop)],
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

    def _token(self, trace: TokenTrace, at: int, resolved: ResolvedGuidance) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "token_id": trace.token_ids[at],
            "kl": _finite(trace.kl[at]),
            "values": self._named(trace.values[at]),
        }
        if resolved.scoring == "exact":
            entry["levels"] = self._named(trace.levels[at])
        if resolved.trace == "candidates":
            entry["candidates"] = [self._candidate(candidate) for candidate in trace.candidates[at]]
        return entry

    def _candidate(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "token_id": candidate["token_id"],
            "logprob": _finite(candidate["logprob"]),
            "tilted_logprob": _finite(candidate["tilted_logprob"]),
            "values": self._named(candidate["values"]) or {},
        }

    def _named(self, numbers: Sequence[float] | None) -> dict[str, float] | None:
        if not _is_scored(numbers):
            return None
        return dict(zip(self.objectives, numbers, strict=True))

    def _sums(self, values: Sequence[Sequence[float] | None]) -> dict[str, float]:
        scored = [numbers for numbers in values if _is_scored(numbers)]
        return {name: math.fsum(numbers[i] for numbers in scored) for i, name in enumerate(self.objectives)}


def _is_scored(numbers: Sequence[float] | None) -> TypeGuard[Sequence[float]]:
    """Whether there are numbers, all of which JSON can carry."""
    return numbers is not None and all(map(math.isfinite, numbers))


def _finite(number: float) -> float | None:
    """JSON has no infinities."""
    return number if math.isfinite(number) else None
