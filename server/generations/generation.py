"""The generations that are running and that somebody may steer or ask for values: one small registry.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from server.errors import FieldError
from server.generations.choice import Choice
from server.generations.ownership import Owner
from server.requests.catalogue import CheckedRequest
from valuemodels.contract.changes import Overrides

MAX_ID_LENGTH = 128


class Generation:
    """One guided call: all its prompts and their choices, under one id.

    A choice is found by its index in the response, `prompt * n + child`; the worker calls it "<prompt>:<child>".

    Attributes:
        owner: who may steer it and read its trace.
        size: how many choices it has, begun or not.
        prompts: how many prompts vLLM has made of the call so far; all, once the first token is there.
        echoes_only: the answer repeats the prompt and holds none of the sampled tokens.
        overrides: what the worker has taken over of changes; `is_steered` as soon as one is on its way.
        is_over: the worker is being told to forget it.
    """

    def __init__(
        self, asked: CheckedRequest, n: int, owner: Owner, *, expected_prompts: int = 1, echoes_only: bool = False
    ) -> None:
        self.id = asked.guidance.generation_id
        self.guidance = asked.guidance
        self.resolved = asked.resolved
        self.owner = owner
        self.size = n * expected_prompts
        self.prompts = 0
        self.echoes_only = echoes_only
        self.overrides = Overrides()
        self.is_steered = False
        self.is_over = False
        self._is_traced = asked.is_traced
        self._n = n
        self._choices: dict[int, Choice] = {}
        self._finished = 0

    @property
    def wants_tokens(self) -> bool:
        """Whether the client asked for the values of every token."""
        return self.resolved.trace != "totals"

    @property
    def is_watched(self) -> bool:
        """Whether the worker keeps values of it. Of a plain one it does from the first change on."""
        return self._is_traced or self.is_steered

    @property
    def is_finished(self) -> bool:
        """Whether all choices of all prompts have ended."""
        return self._finished == self._n * self.prompts

    @property
    def has_ended(self) -> bool:
        """Whether the engine will sample no more for it."""
        return self.is_over or all(self.choice(index).has_ended for index in range(self.size))

    def choice(self, index: int) -> Choice:
        """The choice at this index of the response."""
        return self._choices.setdefault(index, Choice())

    def choice_name(self, index: int) -> str:
        """What the worker calls the choice at this index."""
        return f"{index // self._n}:{index % self._n}"

    def finish(self, choice: Choice) -> None:
        """Note that a choice has got its last token; again does nothing."""
        self._finished += not choice.is_finished
        choice.is_finished = True

    def count(self, prompt: int, child: int, tokens: int, *, is_last: bool = False) -> None:
        """Note that the engine returned this many tokens more."""
        choice = self.choice(prompt * self._n + child)
        choice.has_ended = choice.has_ended or is_last
        if not self.echoes_only:
            choice.returned += tokens

    def unread(self) -> dict[str, int]:
        """The worker's name of every choice that is behind -> the first token missing here."""
        if not self.is_watched:
            return {}
        behind = [(index, choice) for index, choice in self._choices.items() if choice.is_behind]
        return {self.choice_name(index): len(choice.trace) for index, choice in behind}

    @property
    def weight(self) -> int:
        """How many tokens and candidates its traces hold."""
        traces = [choice.trace for choice in self._choices.values()]
        return sum(len(trace) + sum(map(len, trace.candidates)) for trace in traces)

    def take(self, traces: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in what the worker answered to `unread()`."""
        for name, wire in traces.items():
            prompt, child = (int(part) for part in name.split(":"))
            self.choice(prompt * self._n + child).trace.extend(wire)


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
