"""What is known here of one choice of a generation: its tokens, and what held for each of them.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from server.generations.phase import Phase
from valuemodels.contract.guidance import ResolvedGuidance
from valuemodels.contract.trace_wire import CandidateColumns, TokenRange


class Setting(NamedTuple):
    """What held from a token on, until the next setting.

    Attributes:
        weights: in the policy's order.
    """

    from_token: int
    weights: tuple[float, ...]
    beta: float
    kl_budget: float | None

    @classmethod
    def at_start(cls, resolved: ResolvedGuidance) -> "Setting":
        """What a request began with."""
        return cls(0, resolved.weights, resolved.beta, resolved.kl_budget)


@dataclass(slots=True)
class TokenTrace:
    """What the worker has told so far about one choice: parallel lists, one entry a sampled token.

    Attributes:
        dropped: per token the base's probability of the candidates that `candidate_min_p` left out.
        advantages, levels: per token one number an objective, in the policy's order; None where nothing was scored.
        fell_back: per token, whether the base's own logits were sampled from, since a value was no number.
        candidates: per token the scored candidates; empty unless the request asked for them.
        is_aborted: the worker ended the choice, since it must not fall back.
        settings: what held, wherever that changed; the first may stand at a later token than 0.
    """

    kl: list[float] = field(default_factory=list)
    dropped: list[float] = field(default_factory=list)
    advantages: list[Sequence[float] | None] = field(default_factory=list)
    levels: list[Sequence[float] | None] = field(default_factory=list)
    fell_back: list[bool] = field(default_factory=list)
    candidates: list[CandidateColumns] = field(default_factory=list)
    is_aborted: bool = False
    settings: list[Setting] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.kl)

    def extend(self, wire: Mapping[str, Any]) -> None:
        """Append what `SequenceTrace.read` gave. What is known already is skipped; what would leave a gap, too."""
        known = len(self) - int(wire["from"])
        if known < 0:
            return
        self.kl.extend(wire["kl"][known:])
        self.dropped.extend(wire["dropped"][known:])
        self.advantages.extend(wire["advantages"][known:])
        self.levels.extend(wire["levels"][known:])
        self.fell_back.extend(wire["fell_back"][known:])
        self.candidates.extend(CandidateColumns(*packed) for packed in (wire.get("candidates") or [])[known:])
        self.is_aborted |= wire["is_aborted"]
        self._replace_settings([Setting(at, tuple(weights), *rest) for at, weights, *rest in wire["settings"]])

    def _replace_settings(self, newest: Sequence[Setting]) -> None:
        """The worker tells what held at the first token asked for and everything after it."""
        if newest:
            self.settings = [setting for setting in self.settings if setting.from_token < newest[0].from_token]
            self.settings += newest


@dataclass(slots=True)
class Choice:
    """One choice of a generation.

    Attributes:
        phase: never OVER: that is the whole generation's.
        token_ids: what the engine has returned to this process; what it sampled beyond a stop string never is.
        streamed, streamed_settings: of how many tokens the values, and how many settings, the client has been sent.
    """

    trace: TokenTrace = field(default_factory=TokenTrace)
    phase: Phase = Phase.RUNNING
    token_ids: list[int] = field(default_factory=list)
    streamed: int = 0
    streamed_settings: int = 0

    @property
    def returned(self) -> int:
        """How many tokens the engine has returned."""
        return len(self.token_ids)

    @property
    def unread(self) -> int:
        """How many tokens were returned whose values are not known here."""
        return max(0, self.returned - len(self.trace))

    @property
    def kl_nats(self) -> float | None:
        """KL from the base over the returned tokens; None where it is not known for all of them."""
        steps = self.trace.kl[: self.returned]
        return None if self.unread or not all(map(math.isfinite, steps)) else math.fsum(steps)

    def missing(self, at_most: int) -> TokenRange:
        """The next tokens of those."""
        start = len(self.trace)
        return TokenRange(start, self.token_ids[start : start + at_most])

    @property
    def fallback_tokens(self) -> int:
        """How many of the returned tokens were sampled from the base's own logits, since a value was no number."""
        return sum(self.trace.fell_back[: self.returned])

    def advance(self, phase: Phase) -> None:
        """Go on to a phase; nothing where it is there or further."""
        self.phase = max(self.phase, phase)
