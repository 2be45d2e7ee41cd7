"""What both of vLLM's runners know of a request: its guidance, its choice, the place of its next token. No vLLM."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from valuemodels.contract.changes import Overrides
from valuemodels.contract.guidance import EXTRA_ARGS_KEY, ChoiceName, Guidance, ResolvedGuidance
from valuemodels.contract.schedule import next_entry, scheduled
from valuemodels.guide.value_guide import ValueGuide
from valuemodels.scoring.rows import Row

_CHILD_INDEX = re.compile(r"^(\d+)_")


@dataclass(slots=True)
class RunningRequest:
    """What the runner said of a request when it was added, and what holds for it now.

    Attributes:
        asked: the guidance that the request began with; None where only the operator's defaults guide it.
        guide: of its offer.
        end_token: what ends its sequence.
        version: of the generation's overrides that `guidance` includes; 0 is none.
        since: a token that `guidance` holds for; one before it may come again, where drafts were refused.
        until: the token that it holds for no more, since the schedule changes it.
        row: what the guide was told last; the same object for as long as it holds.
    """

    asked: Guidance | None
    guide: ValueGuide
    guidance: ResolvedGuidance
    temperature: float
    prompt: list[int]
    output: list[int]
    end_token: int = 0
    version: int = 0
    since: int = 0
    until: float = math.inf
    row: Row | None = None

    def follow(self, overrides: Overrides | None, request_id: str, drafts: int = 0) -> bool:
        """Bring `guidance` up to date with the schedule, and with the changes that were made to the generation.

        Args:
            drafts: how many tokens are proposed to follow the output; what holds is asked for the token after them.

        Returns:
            whether there is anything to tilt or to watch.
        """
        asked, token = self.asked, len(self.output) + drafts
        if asked is None:
            return self.guidance.needs_values
        version = 0 if overrides is None else overrides.version
        if version != self.version or not self.since <= token < self.until:
            self.version, self.since = version, token
            self._resolve(asked, overrides, choice_name(asked, request_id), token)
        return overrides is not None or self.guidance.needs_values

    def _resolve(self, asked: Guidance, overrides: Overrides | None, choice: ChoiceName, token: int) -> None:
        policy = self.guide.policy
        if overrides is None:
            self.guidance = policy.resolve(asked, token, choice)
        else:
            self.guidance = policy.resolve(overrides.over(scheduled(asked, token, choice), choice))
        later = next_entry(asked, token, choice)
        self.until = math.inf if later is None else later


class EngineParams(Protocol):
    """What we need of vLLM's `SamplingParams`."""

    extra_args: dict[str, Any] | None
    max_tokens: int | None
    stop_token_ids: list[int] | None

    @property
    def eos_token_id(self) -> int | None:
        """None where the request goes on after it."""
        ...


class EngineRequest(Protocol):
    """What we need of the runner's record of a request, which it keeps while the request is preempted, too."""

    sampling_params: EngineParams | None
    output_token_ids: list[int]


def next_tokens(
    requests: Mapping[str, EngineRequest], generation_ids: Collection[str], decided: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    """Which of these generations the worker knows: generation id -> choice -> index of its next token to be decided.

    Choices whose last token has been sampled, or is being, are left out: the runner keeps them until its next step.

    Args:
        requests: all unfinished ones that the runner has ever scheduled, by the engine's request id.
        decided: the engine's request id -> a token for which a step has read what holds; it may not be sampled yet.
    """
    found: dict[str, dict[str, int]] = {}
    for request_id, request in dict(requests).items():  # the runner may add to them meanwhile
        params, output = request.sampling_params, request.output_token_ids
        if params is None or _generation_id(params) not in generation_ids:
            continue
        sampled, guidance = len(output), guidance_of(params)
        position = sampled + (decided.get(request_id) == sampled)
        if guidance is not None and not is_through(params, position, output[-1:]):
            found.setdefault(guidance.generation_id, {})[str(choice_name(guidance, request_id))] = position
    return found


def is_through(params: EngineParams, sampled: int, last: Sequence[int]) -> bool:
    """Whether vLLM will sample no more: the conditions that its scheduler looks at, but for the model's length.

    Args:
        sampled: how many tokens have been; last: the last of them, or nothing where it is not known or there is none.
    """
    is_stop = any(token == params.eos_token_id or token in (params.stop_token_ids or ()) for token in last)
    return is_stop or (sampled > 0 and params.max_tokens is not None and sampled >= params.max_tokens)


def guidance_of(params: EngineParams) -> Guidance | None:
    """The guidance that a request's parameters carry; None where they carry none."""
    wire: Any = (params.extra_args or {}).get(EXTRA_ARGS_KEY)
    return None if wire is None else Guidance.from_wire(wire)


def _generation_id(params: EngineParams) -> str | None:
    """What `guidance_of` says of it, without reading the rest: every request is asked at every change."""
    wire: Any = (params.extra_args or {}).get(EXTRA_ARGS_KEY)
    if wire is None:
        return None
    name: str = wire.generation_id if isinstance(wire, Guidance) else wire["generation_id"]
    return name


def choice_name(guidance: Guidance | None, request_id: str) -> ChoiceName:
    """The choice that a request of the engine's computes: vLLM puts "<child>_" before the ids of n > 1."""
    child = _CHILD_INDEX.match(request_id)
    return ChoiceName(guidance.prompt_index if guidance else 0, int(child[1]) if child else 0)
