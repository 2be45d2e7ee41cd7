"""Scored positions on disk, for training: what the base and the guide saw at every token of sampled replies.

    positions_<n>.safetensors
        hidden         [positions, hidden]      the base's final hidden state, in the base's dtype
        token_ids      [positions, k] int32     the candidates, best first; 0 where there is none
        base_logprobs  [positions, k] float32   at the request's temperature; -inf where there is no candidate
        logprobs       [positions, k] float32   the same after the tilt: what was sampled from
        sequence       [positions] int32        index into the metadata "sequences", a JSON list of generation ids
        place          [positions] int32        number of the reply's token that was sampled there

Written in the worker while it samples; read by training. Imports torch; no vLLM.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from valuemodels.guide.step_record import StepRecord
from valuemodels.scoring.scorer import ScoringBatch

SHARD_POSITIONS = 4096
_SEQUENCES = "sequences"
_COLUMNS = ("hidden", "token_ids", "base_logprobs", "logprobs", "sequence", "place")


@dataclass(frozen=True, slots=True)
class Positions:
    """Columns as in the module's docstring, and the generation ids that `sequence` points at."""

    hidden: Tensor
    token_ids: Tensor
    base_logprobs: Tensor
    logprobs: Tensor
    sequence: Tensor
    place: Tensor
    sequences: tuple[str, ...]

    def __len__(self) -> int:
        return self.hidden.shape[0]


class PositionRecorder:
    """Notes every position of every generation that was scored; rows that fell back to the base are left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._shards = 0
        self._parts: list[Positions] = []

    def note(self, batch: ScoringBatch, step: StepRecord) -> None:
        """Add the scored rows of a step.

        Raises:
            RuntimeError: the base model's hidden states are not captured.
        """
        if batch.hidden is None:
            raise RuntimeError("positions cannot be recorded: nobody captures the base model's hidden states")
        scored = step.is_scored.tolist()
        places = [place for place, row in enumerate(batch.rows) if scored[place] and row.generation_id]
        rows = torch.tensor(places, dtype=torch.long, device=step.token_ids.device)
        valid = step.valid[rows]
        part = Positions(
            # Copies: the engine may write over its buffers in the next step.
            hidden=batch.hidden[rows].cpu().clone(),
            token_ids=step.token_ids[rows].where(valid, 0).int().cpu(),
            base_logprobs=step.tilt.base_logprobs[rows].cpu(),
            logprobs=step.tilt.logprobs[rows].cpu(),
            sequence=torch.arange(len(places), dtype=torch.int32),
            place=torch.tensor([batch.rows[place].position for place in places], dtype=torch.int32),
            sequences=tuple(batch.rows[place].generation_id for place in places),
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
        columns = {name: getattr(whole, name).contiguous() for name in _COLUMNS}
        save_file(columns, partial, metadata={_SEQUENCES: json.dumps(whole.sequences)})
        os.replace(partial, target)
        self._shards += 1
        self._parts = []


def read_positions(folder: Path) -> Positions:
    """All positions of a folder, in the order they were written.

    Raises:
        FileNotFoundError: it holds none.
        SafetensorError, KeyError: a file is not what a recorder writes.
    """
    paths = sorted(folder.glob("positions_*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no recorded positions")
    return join([_read(path) for path in paths])


def join(parts: Sequence[Positions]) -> Positions:
    """One after another; where they differ in k, narrow ones are widened by absent candidates."""
    k = max(part.token_ids.shape[1] for part in parts)
    index: dict[str, int] = {}
    for part in parts:
        for sequence in part.sequences:
            index.setdefault(sequence, len(index))
    wide = [_widened(part, k - part.token_ids.shape[1], index) for part in parts]
    columns = {name: torch.cat([getattr(part, name) for part in wide]) for name in _COLUMNS}
    return Positions(**columns, sequences=tuple(index))


def _read(path: Path) -> Positions:
    with safe_open(path, framework="pt", device="cpu") as file:
        sequences = json.loads(file.metadata()[_SEQUENCES])
        return Positions(**{name: file.get_tensor(name) for name in _COLUMNS}, sequences=tuple(sequences))


def _widened(part: Positions, by: int, index: dict[str, int]) -> Positions:
    numbers = torch.tensor([index[sequence] for sequence in part.sequences], dtype=torch.int32)
    return Positions(
        part.hidden,
        functional.pad(part.token_ids, (0, by)),
        functional.pad(part.base_logprobs, (0, by), value=float("-inf")),
        functional.pad(part.logprobs, (0, by), value=float("-inf")),
        numbers[part.sequence.long()],
        part.place,
        tuple(index),
    )
