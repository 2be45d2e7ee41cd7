"""One guided call under way: all its prompts and their choices, under one id.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from server.generations.choice import Choice
from server.generations.mavis_block import MavisBlock
from server.generations.ownership import Owner
from server.generations.phase import Phase
from server.requests.catalogue import CheckedRequest
from valuemodels.contract.changes import Overrides
from valuemodels.contract.guidance import ChoiceName, Guidance
from valuemodels.contract.schedule import scheduled
from valuemodels.contract.trace_wire import TokenRange

SLICE_TOKENS = 4096
"""Tokens of a generation that one exchange tells of: the engine stands still meanwhile."""
SLICE_CANDIDATE_TOKENS = 256
"""The same where every token carries its candidates."""


class Generation:
    """What the HTTP process knows of it.

    A choice is found by its index in the response, `prompt * n + child`; the workers know it by its `ChoiceName`.

    Attributes:
        catalogue: of the objectives that it began with; block: writes its values.
        owner: who may change it and read its trace.
        is_watched: the workers keep something of it: values, or changes.
        echoes_only: the answer repeats the prompt and holds none of the sampled tokens.
        overrides: the changes that the workers have taken over.
        prompt_tokens: of all its prompts that the engine has been handed.
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
        self.catalogue = checked.catalogue
        self.block = MavisBlock(checked.catalogue.policy.objectives, checked.catalogue.checkpoint)
        self.guidance = checked.guidance
        self.resolved = checked.resolved
        self.owner = owner
        self.is_watched = checked.resolved.needs_values
        self.echoes_only = echoes_only
        self.overrides = Overrides()
        self.prompt_tokens = 0
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
        return self.overrides.version > 0 or self.resolved.has_schedule or not self.resolved.is_plain

    def asked(self, index: int) -> Guidance:
        """What is asked for the next token of the choice at this index: by the request, its schedule, and changes."""
        name = self.choice_name(index)
        return self.overrides.over(scheduled(self.guidance, self.choice(index).returned, name), name)

    def choice(self, index: int) -> Choice:
        """The choice at this index of the response."""
        return self._choices.setdefault(index, Choice())

    def choice_name(self, index: int) -> ChoiceName:
        """What the workers call the choice at this index."""
        return ChoiceName(*divmod(index, self._n))

    def note_prompt(self, tokens: int) -> None:
        """Note that the engine is handed a prompt."""
        self.prompt_tokens += tokens

    @property
    def tokens_to_read(self) -> int:
        """How many tokens a value model would read if it came to it now: prompts once, and what every choice has."""
        return self.prompt_tokens + sum(choice.returned for choice in self._choices.values())

    def watch(self) -> None:
        """Note that the workers are about to keep something of it."""
        self.is_watched = True

    def end(self) -> None:
        """Note that it is over."""
        self._is_over = True

    def count(self, name: ChoiceName, token_ids: Sequence[int], *, is_last: bool = False) -> None:
        """Note that the engine returned these tokens."""
        self._prompts = max(self._prompts, name.prompt + 1)
        choice = self.choice(self._index(name))
        if is_last:
            choice.advance(Phase.SAMPLED)
        if not self.echoes_only:
            choice.token_ids.extend(token_ids)

    @property
    def unread(self) -> int:
        """How many returned tokens there are whose values the workers have and this process has not."""
        return sum(choice.unread for choice in self._choices.values()) if self.is_watched else 0

    def next_unread(self) -> dict[ChoiceName, TokenRange]:
        """As many of those as one exchange may carry, by choice."""
        if not self.is_watched:
            return {}
        left = SLICE_CANDIDATE_TOKENS if self.guidance.trace == "candidates" else SLICE_TOKENS
        found: dict[ChoiceName, TokenRange] = {}
        for index, choice in self._choices.items():
            if left > 0 and choice.unread:
                found[self.choice_name(index)] = missing = choice.missing(left)
                left -= len(missing.token_ids)
        return found

    @property
    def weight(self) -> int:
        """What its traces take: one for a token, and one for every dozen candidates."""
        traces = [choice.trace for choice in self._choices.values()]
        return sum(len(trace) + sum(map(len, trace.candidates)) // 12 for trace in traces)

    @property
    def is_aborted(self) -> bool:
        """Whether the worker ended a choice, since a value was no number and it must not do without."""
        return any(choice.trace.is_aborted for choice in self._choices.values())

    def take(self, traces: Mapping[ChoiceName, Mapping[str, Any]]) -> None:
        """Take in what the workers answered to `next_unread()`."""
        for name, wire in traces.items():
            self.choice(self._index(name)).trace.extend(wire)

    def _index(self, name: ChoiceName) -> int:
        return name.prompt * self._n + name.child
