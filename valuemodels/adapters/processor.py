"""What both of vLLM's runners make of a request: its guidance, and the row that the guide is told of.

Each runner has its own interface for logits processors, and an adapter of its own: `vllm_v1.py` and `vllm_v2.py`.
"""

import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from vllm import SamplingParams
from vllm.config import VllmConfig

from valuemodels.adapters.hidden_states import HiddenStates
from valuemodels.adapters.requests import EngineRequest, RunningRequest, choice_name, guidance_of
from valuemodels.adapters.trunk_layers import use_vllm_layers
from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import EXTRA_ARGS_KEY, Guidance
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.server_process import complaining, end_with_server
from valuemodels.guide.between_steps import HaveDone
from valuemodels.guide.changed import ChangedGenerations
from valuemodels.guide.loading import load_guide
from valuemodels.guide.offers import Offers
from valuemodels.guide.value_guide import ValueGuide
from valuemodels.scoring.rows import Row
from valuemodels.transfers import finished_on

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attachment:
    """Where an adapter finds what its interface does not tell: read at every step, in the runner itself.

    Attributes:
        request_ids: the engine's id of every request: of V1 by batch row, of V2 by slot.
        hidden: the base's final hidden states.
        requests: of V1, all that it has ever scheduled and that are not finished, by the engine's id.
        unfinished: of V1, rows of prompts that the base has not read to the end, whose samples vLLM throws away; and
            how many tokens of them it has read.
        take_changes: takes over what clients have changed since the last step.
    """

    request_ids: Callable[[], Any]
    hidden: HiddenStates | None = None
    requests: Callable[[], Mapping[str, EngineRequest]] = dict
    unfinished: Callable[[], Mapping[int, int]] = dict
    take_changes: Callable[[], None] = lambda: None


class ValueProcessor:
    """The part of an adapter that does not depend on the runner.

    Attributes:
        lock: held while changes are taken over, and while a step reads what holds for its rows: a thread takes changes,
            too, and tells from which token they hold.
    """

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse guidance that does not come from our own code: the last gate of every route, in the API process.

        Raises:
            ValueError: `extra_args` holds the reserved key with anything but a `Guidance`.
        """
        extra_args = sampling_params.extra_args or {}
        if EXTRA_ARGS_KEY in extra_args and not isinstance(extra_args[EXTRA_ARGS_KEY], Guidance):
            raise ValueError(
                f"vllm_xargs.{EXTRA_ARGS_KEY} is reserved; use the fields objective_weights, beta, candidates, "
                "kl_budget and return_values of /v1/chat/completions and /v1/completions"
            )

    def __init__(self, vllm_config: VllmConfig, device: torch.device) -> None:
        model = vllm_config.model_config

        def load(config: GuideConfig, have_done: HaveDone) -> ValueGuide:
            with finished_on(device):  # later offers are loaded in threads of their own
                return load_guide(config, device, model.dtype, model.max_model_len, use_vllm_layers, have_done)

        end_with_server()
        config = GuideConfig.from_wire(vllm_config.additional_config[EXTRA_ARGS_KEY])
        with complaining():
            self.offers = Offers(load, config)
        self.changed = ChangedGenerations()
        self.lock = threading.RLock()
        self.hidden: HiddenStates | None = None
        self._end_token = _end_token(model.hf_text_config)
        self._attachment: Attachment | None = None

    @property
    def guide(self) -> ValueGuide:
        """Of the latest offer."""
        return self.offers.latest

    @property
    def is_attached(self) -> bool:
        """Whether it is connected to its runner."""
        return self._attachment is not None

    def attach(self, attachment: Attachment) -> None:
        """Connect it to its runner."""
        self._attachment = attachment
        self.hidden = attachment.hidden

    @property
    def answers_at_any_time(self) -> bool:
        """Whether `take` may be called while a step is under way, by another thread."""
        raise NotImplementedError

    def take(self, changes: Sequence[Change]) -> dict[str, dict[str, int]]:
        """Take over changes, in this order; what `next_tokens` tells of their generations."""
        with self.lock:
            self.changed.take(changes)
            return self.next_tokens({change.generation_id for change in changes})

    def next_tokens(self, generation_ids: Collection[str]) -> dict[str, dict[str, int]]:
        """Which of these generations the worker knows: generation id -> choice -> index of its next token.

        That is the first token for which nothing has been read yet of what holds. Choices whose last token has been
        sampled, or is being, are left out, where that can be seen.
        """
        raise NotImplementedError

    def forget(self, generation_ids: Sequence[str]) -> None:
        """Let go of all that is kept of these generations; unknown ones are ignored."""
        for guide in self.offers:
            guide.traces.drop(generation_ids)
        with self.lock:
            self.changed.drop(generation_ids)

    def stats(self) -> dict[str, int]:
        """Counters since the start and present sizes."""
        return {**self.offers.stats(), "changed_generations": len(self.changed)}

    @property
    def _attached(self) -> Attachment:
        if self._attachment is None:
            raise RuntimeError("guided requests need the worker extension: call mavis_attach before the first one")
        return self._attachment

    def _request(self, params: SamplingParams, prompt: list[int], output: list[int]) -> RunningRequest | None:
        """A request that enters the batch; None where neither it nor a later change to it concerns the guide.

        Args:
            prompt, output: token ids; both lists may grow.
        """
        guidance = guidance_of(params)
        # An offer goes after the last request that is about it. Were that ever wrong, the operator's floors would hold.
        guide = (None if guidance is None else self.offers.of(guidance.offer)) or self.guide
        resolved = guide.policy.resolve(guidance)
        # One that is plain and has our guidance may be changed later.
        if guidance is None and not resolved.needs_values:
            return None
        end_token = self._end_token if params.eos_token_id is None else params.eos_token_id
        # What its schedule says at its first token holds already; what it says later, from the next step on.
        until = math.inf if guidance is None or not guidance.schedule else 0
        return RunningRequest(guidance, guide, resolved, params.temperature, prompt, output, end_token, until=until)

    def _row(
        self,
        index: int,
        request_id: str,
        request: RunningRequest,
        drafts: Sequence[int] = (),
        line: int | None = None,
    ) -> Row | None:
        """What the guide is told of a row of the logits; None where there is nothing to tilt or to watch.

        Args:
            line: see `Row`.
            drafts: tokens that are proposed to follow the output, and that the row comes after.
        """
        asked, row = request.asked, request.row
        overrides = None if asked is None else self.changed.get(asked.generation_id)
        if not request.follow(overrides, request_id, len(drafts)):
            return None
        if drafts:
            return self._new_row(index, request_id, request, drafts, line)
        if row is None or row.index != index or row.sequence_id != request_id or row.guidance is not request.guidance:
            row = request.row = self._new_row(index, request_id, request, (), line)
        return row

    def _new_row(
        self, index: int, request_id: str, request: RunningRequest, drafts: Sequence[int], line: int | None
    ) -> Row:
        asked = request.asked
        return Row(
            index=index,
            sequence_id=request_id,
            generation_id=asked.generation_id if asked else "",
            choice=choice_name(asked, request_id),
            guidance=request.guidance,
            temperature=request.temperature,
            prompt=request.prompt,
            output=request.output,
            last_token=request.end_token,
            drafts=tuple(drafts),
            line=line,
            cache_salt=(asked.cache_salt if asked else None) or "",
        )


def steps_of(rows: Iterable[tuple[RunningRequest, T]]) -> dict[ValueGuide, list[T]]:
    """What each guide is told of a step."""
    found: dict[ValueGuide, list[T]] = {}
    for request, told in rows:
        found.setdefault(request.guide, []).append(told)
    return found


def _end_token(hf_config: Any) -> int:
    """The base's end of sequence; of a model that names none, token 0."""
    found = getattr(hf_config, "eos_token_id", None)
    first = found[0] if isinstance(found, list) and found else found
    return first if isinstance(first, int) else 0
