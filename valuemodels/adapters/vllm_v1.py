"""vLLM's V1 logits-processor interface, adapted to the value guide. Runs in every worker.

V1 tells of batch rows that come, go and move, never of requests; it removes a live request that is not scheduled and
adds it again later. So a row's identity is the engine's request id, read from the runner's input batch, which the
worker extension hands over (`attach`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from valuemodels.adapters.hidden_states import HiddenStates
from valuemodels.adapters.requests import RunningRequest, choice_name, guidance_of
from valuemodels.adapters.trunk_layers import use_vllm_layers
from valuemodels.contract.guidance import EXTRA_ARGS_KEY, Guidance
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.guide.loading import load_guide
from valuemodels.scoring.rows import Row


class ValueLogitsProcessor(LogitsProcessor):
    """Feeds V1's batch rows to a `ValueGuide`."""

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

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        config = GuideConfig.from_wire(vllm_config.additional_config[EXTRA_ARGS_KEY])
        model = vllm_config.model_config
        self.guide = load_guide(config, torch.device(device), model.dtype, model.max_model_len, use_vllm_layers)
        self._end_token = _end_token(model.hf_text_config)
        self._requests: dict[int, RunningRequest] = {}
        self._request_ids: Callable[[], Sequence[str]] | None = None
        self._unfinished: Callable[[], Mapping[int, int]] = dict
        self._take_changes: Callable[[], None] = lambda: None
        self.hidden: HiddenStates | None = None

    def attach(
        self,
        request_ids: Callable[[], Sequence[str]],
        hidden: HiddenStates | None = None,
        unfinished: Callable[[], Mapping[int, int]] = dict,
        take_changes: Callable[[], None] = lambda: None,
    ) -> None:
        """Tell where the engine's request ids, one a batch row, and the base's hidden states can be read.

        Args:
            unfinished: rows of prompts that the base has not read to the end, whose samples vLLM throws away; and how
                many tokens of them it has read.
            take_changes: takes over what clients have changed since the last step.
        """
        self._request_ids = request_ids
        self._unfinished = unfinished
        self._take_changes = take_changes
        self.hidden = hidden

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
        if self._request_ids is None:
            raise RuntimeError("guided requests need the worker extension: call mavis_attach before the first one")
        self._take_changes()
        ids = self._request_ids()
        # A fixed order makes the value model's batch, and so its rounding, independent of Python's dict order.
        rows = [row for index in sorted(self._requests) if (row := self._row(index, ids[index])) is not None]
        if unfinished := self._unfinished():
            self.guide.read_ahead([(row, unfinished[row.index]) for row in rows if row.index in unfinished])
            rows = [row for row in rows if row.index not in unfinished]
        if not rows:
            return logits
        return self.guide.step(logits, rows, None if self.hidden is None else self.hidden.rows(len(logits)))

    def _add(self, index: int, params: SamplingParams, prompt: list[int] | None, output: list[int]) -> None:
        # The new request may take the place of one that was never reported as removed.
        self._requests.pop(index, None)
        guidance = guidance_of(params)
        resolved = self.guide.policy.resolve(guidance)
        # Prompts given as embeddings have no tokens a value model could read. One that is plain and has our guidance
        # may be changed later.
        if (guidance is None and not resolved.needs_values) or not prompt:
            return
        end_token = self._end_token if params.eos_token_id is None else params.eos_token_id
        # What its schedule says at its first token holds already; what it says later, from the next step on.
        until = math.inf if guidance is None or not guidance.schedule else 0
        self._requests[index] = RunningRequest(
            guidance, resolved, params.temperature, prompt, output, end_token, until=until
        )

    def _move(self, source: int, target: int, swap: bool) -> None:
        moved, replaced = self._requests.pop(source, None), self._requests.pop(target, None)
        if moved is not None:
            self._requests[target] = moved
        if swap and replaced is not None:
            self._requests[source] = replaced

    def _row(self, index: int, request_id: str) -> Row | None:
        """What the guide is told of a row; None where there is nothing to tilt or to watch."""
        request = self._requests[index]
        asked, row = request.asked, request.row
        overrides = None if asked is None else self.guide.changed.get(asked.generation_id)
        if not request.follow(self.guide.policy, overrides, request_id):
            return None
        if row is None or row.index != index or row.sequence_id != request_id or row.guidance is not request.guidance:
            row = request.row = self._new_row(index, request_id, request)
        return row

    def _new_row(self, index: int, request_id: str, request: RunningRequest) -> Row:
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
        )


def _end_token(hf_config: Any) -> int:
    """The base's end of sequence; of a model that names none, token 0."""
    found = getattr(hf_config, "eos_token_id", None)
    first = found[0] if isinstance(found, list) and found else found
    return first if isinstance(first, int) else 0
