"""The logits-processor interface of vLLM's V1 runner, adapted to the value guide. Runs in every worker.

V1 tells of batch rows that come, go and move, never of requests; it removes a live request that is not scheduled and
adds it again later. So a row's identity is the engine's request id, read from the runner's input batch (`attach`).
"""

from collections.abc import Collection

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from valuemodels.adapters.processor import ValueProcessor, steps_of
from valuemodels.adapters.requests import RunningRequest, next_tokens
from valuemodels.scoring.rows import Row


class ValueLogitsProcessor(ValueProcessor, LogitsProcessor):
    """Feeds V1's batch rows to a `ValueGuide`."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, torch.device(device))
        self._requests: dict[int, RunningRequest] = {}
        # The engine's id of each request that the latest step was about -> the token that it chose.
        self._decided: dict[str, int] = {}

    def is_argmax_invariant(self) -> bool:
        """False: a tilt may change which token is the likeliest."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch: removed, then added, then moved rows, as the interface asks."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._requests.pop(index, None)
        for index, params, prompt, output in batch_update.added:
            self._add(index, params, prompt, output)
        for source, target, direction in batch_update.moved:
            self._move(source, target, swap=direction == MoveDirectionality.SWAP)

    def apply(self, logits: Tensor) -> Tensor:
        """Tilt the rows whose requests ask for it. logits: [batch, vocab] float32, changed in place."""
        if not self._requests:
            return logits
        unfinished = self._attached.unfinished()
        rows = self._rows(unfinished)
        if unfinished:
            ahead = ((asked, (row, unfinished[row.index])) for asked, row in rows if row.index in unfinished)
            for guide, chunks in steps_of(ahead).items():
                guide.read_ahead(chunks)
            rows = [(asked, row) for asked, row in rows if row.index not in unfinished]
        for guide, own in steps_of(rows).items():
            logits = guide.step(logits, own, None if self.hidden is None else self.hidden.rows(len(logits)))
        return logits

    @property
    def answers_at_any_time(self) -> bool:
        """See `ValueProcessor`."""
        return True

    def next_tokens(self, generation_ids: Collection[str]) -> dict[str, dict[str, int]]:
        """See `ValueProcessor`."""
        return next_tokens(self._attached.requests(), generation_ids, self._decided)

    def _rows(self, unfinished: Collection[int]) -> list[tuple[RunningRequest, Row]]:
        """The rows that there is something to tilt or to watch in, by what holds now."""
        with self.lock:
            self._attached.take_changes()
            ids = self._attached.request_ids()
            # A fixed order makes the value model's batch, and so its rounding, independent of Python's dict order.
            found = [(index, self._requests[index]) for index in sorted(self._requests)]
            rows = [(asked, self._row(index, ids[index], asked)) for index, asked in found]
            self._decided = {ids[index]: len(asked.output) for index, asked in found if index not in unfinished}
        return [(asked, row) for asked, row in rows if row is not None]

    def _add(self, index: int, params: SamplingParams, prompt: list[int] | None, output: list[int]) -> None:
        # The new request may take the place of one that was never reported as removed.
        self._requests.pop(index, None)
        # Prompts given as embeddings have no tokens a value model could read.
        if prompt and (request := self._request(params, prompt, output)) is not None:
            self._requests[index] = request

    def _move(self, source: int, target: int, swap: bool) -> None:
        moved, replaced = self._requests.pop(source, None), self._requests.pop(target, None)
        if moved is not None:
            self._requests[target] = moved
        if swap and replaced is not None:
            self._requests[source] = replaced
