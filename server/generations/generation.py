"""One guided call under way: all its prompts and their choices, under one id.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

from collections.abc import Mapping
from typing import Any

from server.generations.choice import Choice
from server.generations.ownership import Owner
from server.generations.phase import Phase
from server.requests.catalogue import CheckedRequest
from valuemodels.contract.changes import Overrides
from valuemodels.contract.guidance import ChoiceName


class Generation:
    """What the HTTP process knows of it.

    A choice is found by its index in the response, `prompt * n + child`; the workers know it by its `ChoiceName`.

    Attributes:
        owner: who may change it and read its trace.
        is_watched: the workers keep something of it: values, or changes.
        echoes_only: the answer repeats the prompt and holds none of the sampled tokens.
        overrides: the changes that the workers have taken over.
    """

    def __init__(
        self,
        checked: CheckedRequest,
        n: int,
        owner: Owner,
        *,
        expected_prompts: int = 1,
        echoes_only: bool = False,
    ) -> None:
        self.id = checked.guidance.generation_id
        self.guidance = checked.guidance
        self.resolved = checked.resolved
        self.owner = owner
        self.is_watched = checked.resolved.needs_values
        self.echoes_only = echoes_only
        self.overrides = Overrides()
        self._n = n
        self._prompts = expected_prompts
        self._choices: dict[int, Choice] = {}
        self._is_over = False

    @property
    def size(self) -> int:
        """How many choices it has, begun or not."""
        return self._n * self._prompts

    @property
    def phase(self) -> Phase:
        """How far it has come."""
        if self._is_over:
            return Phase.OVER
        if len(self._choices) < self.size:  # some have not begun
            return Phase.RUNNING
        return min(choice.phase for choice in self._choices.values())

    @property
    def is_guided(self) -> bool:
        """Whether the tilt of any of its tokens may have differed from zero."""
        return self.overrides.version > 0 or not self.resolved.is_plain

    def choice(self, index: int) -> Choice:
        """The choice at this index of the response."""
        return self._choices.setdefault(index, Choice())

    def choice_name(self, index: int) -> ChoiceName:
        """What the workers call the choice at this index."""
        return ChoiceName(*divmod(index, self._n))

    def watch(self) -> None:
        """Note that the workers are about to keep something of it."""
        self.is_watched = True

    def end(self) -> None:
        """Note that it is over."""
        self._is_over = True

    def count(self, name: ChoiceName, tokens: int, *, is_last: bool = False) -> None:
        """Note that the engine returned this many tokens more."""
        self._prompts = max(self._prompts, name.prompt + 1)
        choice = self.choice(self._index(name))
        if is_last:
            choice.advance(Phase.SAMPLED)
        if not self.echoes_only:
            choice.returned += tokens

    def unread(self) -> dict[ChoiceName, int]:
        """Every choice of which values are missing here -> the first token missing."""
        if not self.is_watched:
            return {}
        return {self.choice_name(i): len(choice.trace) for i, choice in self._choices.items() if choice.unread}

    @property
    def weight(self) -> int:
        """How many tokens and candidates its traces hold."""
        traces = [choice.trace for choice in self._choices.values()]
        return sum(len(trace) + sum(map(len, trace.candidates)) for trace in traces)

    def take(self, traces: Mapping[ChoiceName, Mapping[str, Any]]) -> None:
        """Take in what the workers answered to `unread()`."""
        for name, wire in traces.items():
            self.choice(self._index(name)).trace.extend(wire)

    def _index(self, name: ChoiceName) -> int:
        return name.prompt * self._n + name.child
