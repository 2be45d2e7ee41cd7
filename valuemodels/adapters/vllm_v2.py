"""The logits-processor interface of vLLM's V2 runner, adapted to the value guide. Runs in every worker.

V2 gives every request a slot when it enters the batch, and tells once; of its end, or that it is preempted, it tells
nothing: the slot is given to another, and a request that is resumed enters again. Tokens lie on the device, by slot. A
row of the logits names its slot and its place in the sequence; with speculative decoding a request has a row for every
draft as well, whose tokens are the model's input and nowhere else.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor, LogitsProcRequestState

from valuemodels.adapters.processor import ValueProcessor
from valuemodels.adapters.requests import RunningRequest, choice_name, is_through
from valuemodels.scoring.rows import Row


@dataclass(slots=True, eq=False)
class SlotRequest:
    """A request since it last entered the batch.

    Attributes:
        request_id: the engine's; slot: where it stands, while the runner says so.
        params: as it was added; running: what the guide knows of it.
        prompt_tokens: how many its prompt has.
        reached: how many tokens have been sampled by the end of its latest step.
    """

    request_id: str
    slot: int
    params: SamplingParams
    running: RunningRequest
    prompt_tokens: int
    reached: int = 0

    @property
    def known(self) -> int:
        """How many of its tokens are on the host."""
        return len(self.running.prompt) + len(self.running.output)

    def learn(self, tokens: Sequence[int]) -> None:
        """Append tokens, of the prompt or sampled."""
        missing = self.prompt_tokens - len(self.running.prompt)
        self.running.prompt += tokens[:missing]
        self.running.output += tokens[max(missing, 0) :]


@dataclass(frozen=True, slots=True)
class _Line:
    """A row of the logits: the place that its request's committed tokens reach to, and the drafts between."""

    index: int
    request: SlotRequest
    committed: int
    drafts: tuple[int, ...]


class ValueLogitsProcessor(ValueProcessor, LogitsProcessor):
    """Feeds V2's logits rows to a `ValueGuide`."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        super().__init__(vllm_config, req_states.device)
        self._states = req_states
        self._slots: dict[int, SlotRequest] = {}
        self._of_generation: dict[str, dict[str, SlotRequest]] = {}

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Follow a request that is new, or resumed, perhaps in another slot.

        Returns:
            whether its rows are to come to `apply`: also where it is plain and may be changed later.
        """
        self._slots.pop(req_idx, None)
        request = self._request(sampling_params, [], [])
        # vLLM warms its kernels up with requests of its own, before the worker extension is attached.
        if request is None or (self._attachment is None and request.asked is None):
            return False
        request_id = self._attached.request_ids()[req_idx]
        prompt_tokens = int(self._states.prompt_len.np[req_idx])
        found = self._slots[req_idx] = SlotRequest(request_id, req_idx, sampling_params, request, prompt_tokens)
        if (asked := request.asked) is not None:
            choices = self._of_generation.setdefault(asked.generation_id, {})
            choices[str(choice_name(asked, request_id))] = found
        return True

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Tilt the rows whose requests ask for it. logits: [rows, vocab] float32, changed in place."""
        if not self._slots:
            return logits
        self._attached.take_changes()
        lines = list(self._lines(ctx))
        self._learn({line.request: line.committed for line in lines})
        ahead: list[tuple[Row, int]] = []
        rows: list[Row] = []
        for line in lines:
            request, committed = line.request, line.committed
            row = self._row(line.index, request.request_id, request.running, line.drafts)
            if committed < self._states.prefill_len.np[request.slot]:
                # Not the prompt's last part: its sample is thrown away. Drafts of it are none.
                ahead += [] if row is None or line.drafts else [(row, committed)]
                continue
            request.reached = committed - request.prompt_tokens + 1
            rows += [] if row is None else [row]
        if ahead:
            self.guide.read_ahead(ahead)
        hidden = None if self.hidden is None else self.hidden.rows(len(logits))
        return self.guide.step(logits, rows, hidden) if rows else logits

    def next_tokens(self, generation_ids: Collection[str]) -> dict[str, dict[str, int]]:
        """See `ValueProcessor`. Of one that is preempted, or finished and not yet forgotten, the token after its last
        step's.
        """
        found: dict[str, dict[str, int]] = {}
        for generation_id in generation_ids:
            for choice, request in self._of_generation.get(generation_id, {}).items():
                if (token := self._next_token(request)) is not None:
                    found.setdefault(generation_id, {})[choice] = token
        return found

    def forget(self, generation_ids: Sequence[str]) -> None:
        """See `ValueProcessor`."""
        super().forget(generation_ids)
        for generation_id in generation_ids:
            self._of_generation.pop(generation_id, None)

    def _lines(self, ctx: LogitsContext) -> Iterator[_Line]:
        """The rows of our requests, in the batch's order: those of one request stand together, drafts after it."""
        columns = (ctx.expanded_idx_mapping, ctx.pos, ctx.expanded_local_pos, ctx.input_ids)
        drafts: tuple[int, ...] = ()
        for index, row in enumerate(torch.stack([column.long() for column in columns], dim=1).tolist()):
            slot, position, offset, token = row
            drafts = (*drafts, token) if offset else ()
            if (request := self._slots.get(slot)) is not None:
                yield _Line(index, request, position + 1 - offset, drafts)

    def _learn(self, committed: Mapping[SlotRequest, int]) -> None:
        """Bring so many tokens of these requests to the host: one copy, whatever their number."""
        missing = {request: range(request.known, tokens) for request, tokens in committed.items()}
        slots = [request.slot for request, places in missing.items() for _ in places]
        if not slots:
            return
        tokens = self._states.all_token_ids.gpu
        index = torch.tensor([slots, [at for places in missing.values() for at in places]], device=tokens.device)
        found = iter(tokens[index[0], index[1]].tolist())
        for request, places in missing.items():
            request.learn([next(found) for _ in places])

    def _is_live(self, request: SlotRequest) -> bool:
        """Whether it stands in its slot, neither preempted nor gone."""
        ids = self._attached.request_ids()
        return request.slot in ids and ids[request.slot] == request.request_id

    def _next_token(self, request: SlotRequest) -> int | None:
        """None where its last one has been sampled."""
        last: list[int] = []
        sampled = request.reached
        if self._is_live(request):
            total = int(self._states.total_len.gpu[request.slot])
            sampled = total - request.prompt_tokens
            last = self._states.all_token_ids.gpu[request.slot, total - 1 : total].tolist() if sampled else []
        return None if is_through(request.params, sampled, last) else sampled
