"""Scored positions on disk, for distillation: what the guide saw and what the exact values were.

    positions_<n>.safetensors
        hidden         [positions, hidden]         the base's final hidden state, in the base's dtype
        token_ids      [positions, k] int32        the candidates, best first; 0 where there is none
        base_logprobs  [positions, k] float32      at the request's temperature; -inf where there is no candidate
        values         [positions, k, objectives]  float32, in standard deviations of the base's reward; 0 where none

Written in the worker while it samples; read by training. Imports torch; no vLLM.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from valuemodels.guide.step_record import StepRecord
from valuemodels.scoring.scorer import ScoringBatch

SHARD_POSITIONS = 4096


@dataclass(frozen=True, slots=True)
class Positions:
    """Columns as in the module's docstring."""

    hidden: Tensor
    token_ids: Tensor
    base_logprobs: Tensor
    values: Tensor

    def __len__(self) -> int:
        return self.hidden.shape[0]


class PositionRecorder:
    """Notes every position that was scored exactly; rows that fell back to the base are left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._shards = 0
        self._parts: list[Positions] = []

    def note(self, batch: ScoringBatch, step: StepRecord) -> None:
        """Add the exactly scored rows of a step.

        Raises:
            RuntimeError: the base model's hidden states are not captured.
        """
        if batch.hidden is None:
            raise RuntimeError("positions cannot be recorded: nobody captures the base model's hidden states")
        rows = (step.is_scored & step.gives_levels).nonzero().flatten()
        valid = step.base_logprobs[rows] > float("-inf")
        part = Positions(
            # Copies: the engine may write over its buffers in the next step.
            hidden=batch.hidden[rows].cpu().clone(),
            token_ids=step.token_ids[rows].where(valid, 0).int().cpu(),
            base_logprobs=step.base_logprobs[rows].cpu(),
            values=step.values[rows].where(valid[..., None], 0.0).cpu(),
        )
        self._parts.append(part)
        if sum(map(len, self._parts)) >= SHARD_POSITIONS:
            self.flush()

    def flush(self) -> None:
        """Write what has been noted since the last shard."""
        if not sum(map(len, self._parts)):
            return
        whole = join(self._parts)
        target = self._folder / f"positions_{self._shards:05d}.safetensors"
        partial = target.with_suffix(f".partial-{os.getpid()}")
        columns = {name: getattr(whole, name).contiguous() for name in Positions.__slots__}
        save_file(columns, partial)
        os.replace(partial, target)
        self._shards += 1
        self._parts = []


def read_positions(folder: Path) -> Positions:
    """All positions of a folder, in the order they were written.

    Raises:
        FileNotFoundError: it holds none.
    """
    paths = sorted(folder.glob("positions_*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no recorded positions")
    return join([Positions(**load_file(path)) for path in paths])


def join(parts: Sequence[Positions]) -> Positions:
    """One after another; where they differ in k, narrow ones are widened by absent candidates."""
    k = max(part.token_ids.shape[1] for part in parts)
    wide = [_widened(part, k - part.token_ids.shape[1]) for part in parts]
    return Positions(*(torch.cat([getattr(part, name) for part in wide]) for name in Positions.__slots__))


def _widened(part: Positions, by: int) -> Positions:
    return Positions(
        part.hidden,
        functional.pad(part.token_ids, (0, by)),
        functional.pad(part.base_logprobs, (0, by), value=float("-inf")),
        functional.pad(part.values, (0, 0, 0, by)),
    )
