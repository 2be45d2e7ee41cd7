"""The generations that are running and whose values somebody will ask for: one small registry.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.errors import FieldError, LiveIdError
from server.objectives import Asked

MAX_ID_LENGTH = 128


@dataclass(slots=True)
class TokenTrace:
    """What the worker has told so far about one choice: parallel lists, one entry a sampled token.

    Attributes:
        values, levels: per token one number an objective, in the policy's order; None where nothing was scored.
        candidates: per token the scored candidates; empty unless the request asked for them.
    """

    token_ids: list[int] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    values: list[Sequence[float] | None] = field(default_factory=list)
    levels: list[Sequence[float] | None] = field(default_factory=list)
    candidates: list[Sequence[Mapping[str, Any]]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token_ids)

    def extend(self, wire: Mapping[str, Any]) -> None:
        """Append a `ChoiceTrace` of the worker. What is known already is skipped, what would leave a gap, too."""
        known = len(self) - int(wire["from"])
        if known < 0:
            return
        self.token_ids.extend(wire["token_ids"][known:])
        self.kl.extend(wire["kl"][known:])
        self.values.extend(wire["values"][known:])
        self.levels.extend(wire["levels"][known:])
        self.candidates.extend((wire.get("candidates") or [])[known:])


@dataclass(slots=True)
class LiveChoice:
    """One choice of a running generation.

    Attributes:
        returned: how many tokens the engine has returned to this process; those beyond a stop string never are.
        streamed: how many tokens' values the client has been sent.
    """

    trace: TokenTrace = field(default_factory=TokenTrace)
    returned: int = 0
    streamed: int = 0
    is_finished: bool = False

    @property
    def is_behind(self) -> bool:
        """Whether tokens were returned whose values are not known here."""
        return len(self.trace) < self.returned

    @property
    def kl_nats(self) -> float | None:
        """KL from the base over the returned tokens; None where it is not known for all of them."""
        steps = self.trace.kl[: self.returned]
        return None if self.is_behind or not all(map(math.isfinite, steps)) else math.fsum(steps)


class LiveGeneration:
    """One guided call: all its prompts and their choices, under one id.

    A choice is found by its index in the response, `prompt * n + child`; the worker calls it "<prompt>:<child>".

    Attributes:
        prompts: how many prompts vLLM has made of the call so far; all, once the first token is there.
        echoes_only: the answer repeats the prompt and holds none of the sampled tokens.
    """

    def __init__(self, asked: Asked, n: int, *, echoes_only: bool = False) -> None:
        self.id = asked.guidance.generation_id
        self.resolved = asked.resolved
        self.prompts = 0
        self.echoes_only = echoes_only
        self._n = n
        self._choices: dict[int, LiveChoice] = {}
        self._finished = 0

    @property
    def wants_tokens(self) -> bool:
        """Whether the client asked for the values of every token."""
        return self.resolved.trace != "totals"

    @property
    def is_finished(self) -> bool:
        """Whether all choices of all prompts have ended."""
        return self._finished == self._n * self.prompts

    def choice(self, index: int) -> LiveChoice:
        """The choice at this index of the response."""
        return self._choices.setdefault(index, LiveChoice())

    def finish(self, choice: LiveChoice) -> None:
        """Note that a choice has got its last token; again does nothing."""
        self._finished += not choice.is_finished
        choice.is_finished = True

    def count(self, prompt: int, child: int, tokens: int) -> None:
        """Note that the engine returned this many tokens more."""
        if not self.echoes_only:
            self.choice(prompt * self._n + child).returned += tokens

    def unread(self) -> dict[str, int]:
        """The worker's name of every choice that is behind -> the first token missing here."""
        return {
            f"{index // self._n}:{index % self._n}": len(choice.trace)
            for index, choice in self._choices.items()
            if choice.is_behind
        }

    def take(self, traces: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in what the worker answered to `unread()`."""
        for name, wire in traces.items():
            prompt, child = (int(part) for part in name.split(":"))
            self.choice(prompt * self._n + child).trace.extend(wire)


class LiveGenerations:
    """Generations by id, from `open` until the worker has forgotten them."""

    def __init__(self) -> None:
        self._by_id: dict[str, LiveGeneration] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, generation_id: str) -> LiveGeneration | None:
        return self._by_id.get(generation_id)

    def open(self, generation: LiveGeneration) -> None:
        """Register a generation.

        Raises:
            LiveIdError: one of this id is still running.
        """
        if generation.id in self._by_id:
            raise LiveIdError(generation.id)
        self._by_id[generation.id] = generation

    def close(self, generation: LiveGeneration) -> None:
        """Free the id; nothing where it is free already."""
        if self._by_id.get(generation.id) is generation:
            del self._by_id[generation.id]


def checked_id(chosen: Iterable[tuple[str, str | None]]) -> None:
    """Refuse ids that a client chose badly.

    Args:
        chosen: (where it stood, the id), None where the client chose none.

    Raises:
        FieldError: empty, too long, or with characters that do not print.
    """
    for where, value in chosen:
        if value is None or (0 < len(value) <= MAX_ID_LENGTH and value.isascii() and value.isprintable()):
            continue
        raise FieldError(where, value, f"1 to {MAX_ID_LENGTH} printable ASCII characters")
