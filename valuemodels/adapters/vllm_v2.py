"""The logits-processor interface of vLLM's V2 runner, adapted to the value guide. Runs in every worker.

V2 gives every request a slot when it enters the batch, and tells once; of its end, or that it is preempted, it tells
nothing: the slot is given to another, and a request that is resumed enters again. Tokens lie on the device, by slot.
Which slot a row of the logits belongs to, and how long its sequence is, the host knows; with speculative decoding only
the device does, and a request has a row for every draft as well, whose tokens are the model's input and nowhere else.

So fast scoring waits for nothing, unless there is speculation: its tokens come to the host some steps later. Exact
scoring plans on the host what is to be read, and waits for the newest tokens.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor, LogitsProcRequestState

from valuemodels.adapters.processor import ValueProcessor, steps_of
from valuemodels.adapters.requests import RunningRequest, choice_name, is_through
from valuemodels.adapters.slots import ComingTokens, SlotRequest
from valuemodels.guide.step_record import Backlog
from valuemodels.scoring.rows import Row


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
        self._speculates = vllm_config.speculative_config is not None
        self._backlog = Backlog()
        self._coming: ComingTokens | None = None

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
        found.reached = int(self._states.prefill_len.np[req_idx]) - prompt_tokens  # where it was preempted
        if (asked := request.asked) is not None:
            with self.lock:
                choices = self._of_generation.setdefault(asked.generation_id, {})
                choices[str(choice_name(asked, request_id))] = found
        return True

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Tilt the rows whose requests ask for it. logits: [rows, vocab] float32, changed in place."""
        if not self._slots:
            return logits
        lines = list(self._lines(ctx))
        ahead: list[tuple[RunningRequest, tuple[Row, int]]] = []
        rows: list[tuple[RunningRequest, Row]] = []
        read: list[SlotRequest] = []
        for line, row in self._rows(lines):
            running = line.request.running
            read += [line.request] if row.guidance.scoring != "fast" else []
            if self._is_decided(line):
                rows.append((running, row))
            elif not line.drafts:  # of a prompt that is not read to its end there are none
                ahead.append((running, (row, line.committed)))
        self._learn(read)
        self._learn_later([line.request for line in lines])
        for guide, chunks in steps_of(ahead).items():
            guide.read_ahead(chunks)
        hidden = None if self.hidden is None else self.hidden.rows(len(logits))
        for guide, own in steps_of(rows).items():
            logits = guide.step(logits, own, hidden)
        return logits

    @property
    def answers_at_any_time(self) -> bool:
        """See `ValueProcessor`. With speculation only the device knows how many tokens a step has sampled."""
        return not self._speculates

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
        if not self._speculates:
            # One row a request, and the host's figures are exact.
            for index, slot in enumerate(ctx.idx_mapping_np.tolist()):
                if (request := self._slots.get(slot)) is not None:
                    yield _Line(index, request, int(ctx.seq_lens_upper_bound_np[index]), ())
            return
        columns = (ctx.expanded_idx_mapping, ctx.pos, ctx.expanded_local_pos, ctx.input_ids)
        drafts: tuple[int, ...] = ()
        for index, row in enumerate(torch.stack([column.long() for column in columns], dim=1).tolist()):
            slot, position, offset, token = row
            drafts = (*drafts, token) if offset else ()
            if (request := self._slots.get(slot)) is not None:
                yield _Line(index, request, position + 1 - offset, drafts)

    def _rows(self, lines: Sequence[_Line]) -> list[tuple[_Line, Row]]:
        """Those that there is something to tilt or to watch in, by what holds now."""
        with self.lock:
            self._attached.take_changes()
            for line in lines:
                line.request.reach(line.committed)
            rows = [(line, self._row_of(line)) for line in lines]
            for line in filter(self._is_decided, lines):
                line.request.reached = line.committed - line.request.prompt_tokens + 1
        return [(line, row) for line, row in rows if row is not None]

    def _is_decided(self, line: _Line) -> bool:
        """Not so for the parts of a prompt before its last: their samples are thrown away."""
        return line.committed >= int(self._states.prefill_len.np[line.request.slot])

    def _row_of(self, line: _Line) -> Row | None:
        # Rows change their places from step to step, requests keep their slots; each draft has a line of its own.
        kept_at = line.request.slot + len(line.drafts) * self._states.max_num_reqs
        return self._row(line.index, line.request.request_id, line.request.running, line.drafts, kept_at)

    def _learn(self, requests: Sequence[SlotRequest]) -> None:
        """Bring all tokens of these requests to the host, now."""
        table = self._states.all_token_ids.gpu
        ComingTokens(table, {request: request.missing(prompt=True) for request in requests}).learn()

    def _learn_later(self, requests: Sequence[SlotRequest]) -> None:
        """Every few steps, have what these requests have sampled on its way; take what has come."""
        if self._coming is not None and self._coming.are_here:
            self._coming.learn()
            self._coming = None
        if self._coming is None and self._backlog.is_full(len(requests)):
            table = self._states.all_token_ids.gpu
            self._coming = ComingTokens(table, {request: request.missing(prompt=False) for request in requests})

    def _is_live(self, request: SlotRequest) -> bool:
        """Whether it stands in its slot, neither preempted nor gone."""
        ids = self._attached.request_ids()
        return request.slot in ids and ids[request.slot] == request.request_id

    def _next_token(self, request: SlotRequest) -> int | None:
        """None where its last one has been sampled, or is being; which it was is only looked up on the device."""
        last: list[int] = []
        sampled = request.reached
        if self._speculates and self._is_live(request):
            total = int(self._states.total_len.gpu[request.slot])
            sampled = total - request.prompt_tokens
            last = self._states.all_token_ids.gpu[request.slot, total - 1 : total].tolist() if sampled else []
        return None if is_through(request.params, sampled, last) else sampled
