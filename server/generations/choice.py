"""What is known here of one choice of a generation: its tokens, and what held for each of them.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from server.generations.phase import Phase
from valuemodels.contract.guidance import ResolvedGuidance


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
        advantages, levels: per token one number an objective, in the policy's order; None where nothing was scored.
        candidates: per token the scored candidates; empty unless the request asked for them.
        settings: what held, wherever that changed; the first may stand at a later token than 0.
    """

    token_ids: list[int] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    advantages: list[Sequence[float] | None] = field(default_factory=list)
    levels: list[Sequence[float] | None] = field(default_factory=list)
    candidates: list[Sequence[Mapping[str, Any]]] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token_ids)

    def extend(self, wire: Mapping[str, Any]) -> None:
        """Append what `SequenceTrace.read` gave. What is known already is skipped; what would leave a gap, too."""
        known = len(self) - int(wire["from"])
        if known < 0:
            return
        self.token_ids.extend(wire["token_ids"][known:])
        self.kl.extend(wire["kl"][known:])
        self.advantages.extend(wire["advantages"][known:])
        self.levels.extend(wire["levels"][known:])
        self.candidates.extend((wire.get("candidates") or [])[known:])
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
        returned: how many tokens the engine has returned to this process; those beyond a stop string never are.
        streamed, streamed_settings: of how many tokens the values, and how many settings, the client has been sent.
    """

    trace: TokenTrace = field(default_factory=TokenTrace)
    phase: Phase = Phase.RUNNING
    returned: int = 0
    streamed: int = 0
    streamed_settings: int = 0

    @property
    def unread(self) -> int:
        """How many tokens were returned whose values are not known here."""
        return max(0, self.returned - len(self.trace))

    @property
    def kl_nats(self) -> float | None:
        """KL from the base over the returned tokens; None where it is not known for all of them."""
        steps = self.trace.kl[: self.returned]
        return None if self.unread or not all(map(math.isfinite, steps)) else math.fsum(steps)

    def advance(self, phase: Phase) -> None:
        """Go on to a phase; nothing where it is there or further."""
        self.phase = max(self.phase, phase)
