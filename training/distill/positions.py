"""Recorded positions as the probe's fit reads them: checked, and with advantages, values less the base's expectation.

Runs in the fit's process. Imports torch, never vllm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from training.distill.record import split_folder
from training.distill.run import DistillRun
from training.errors import RunDirError
from training.prompts.chat import SPLITS, SplitName
from valuemodels.guide.recorder import Positions, join, read_positions
from valuemodels.tilting import advantages_of


@dataclass(frozen=True, slots=True)
class PositionData:
    """Positions of one split.

    Attributes:
        hidden: [positions, hidden] the base's final hidden states, in the base's dtype.
        token_ids: [positions, k] int32 the candidates.
        base_logprobs: [positions, k] float32 on the candidates; -inf where there is none.
        advantages: [positions, k, objectives] float32 exact values in standard deviations of the base's reward, minus
            their mean under `base_logprobs`; 0 where there is no candidate.
    """

    hidden: Tensor
    token_ids: Tensor
    base_logprobs: Tensor
    advantages: Tensor

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator["PositionData"]:
        """All positions once, in parts of at most `size`; in random order where a generator is given."""
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        for index in torch.split(order, size):
            yield PositionData(
                self.hidden[index], self.token_ids[index], self.base_logprobs[index], self.advantages[index]
            )


def load_position_data(run: DistillRun) -> dict[SplitName, PositionData]:
    """The positions of every split.

    Raises:
        RunDirError: they are not all recorded yet, a split has none, or a shard cannot be used.
    """
    run.finished("positions")
    return {split: read_split(split_folder(run, split)) for split in SPLITS}


def read_split(folder: Path) -> PositionData:
    """All shards of a split.

    Raises:
        RunDirError: there is no position, or a shard holds what is no position of this split.
    """
    shards = [_read_shard(path) for path in sorted(folder.glob("shard_????")) if any(path.iterdir())]
    if not shards:
        raise RunDirError(f"{folder} holds no recorded positions: remove the stage's folder to sample them again")
    for shard in shards:
        if shard.hidden.shape[1] != shards[0].hidden.shape[1] or shard.values.shape[2] != shards[0].values.shape[2]:
            raise RunDirError(f"{folder} mixes positions of different models: remove the stage's folder")
    whole = join(shards)
    present = (whole.base_logprobs > float("-inf"))[..., None]
    advantages = advantages_of(whole.values, whole.base_logprobs).where(present, 0.0)
    return PositionData(whole.hidden, whole.token_ids, whole.base_logprobs, advantages)


def _read_shard(folder: Path) -> Positions:
    try:
        positions = read_positions(folder)
    except (OSError, SafetensorError, TypeError) as error:
        raise RunDirError(f"{folder} cannot be read: {error}") from None
    present = positions.base_logprobs != float("-inf")
    finite = {
        "hidden": positions.hidden.isfinite().all(),
        "base_logprobs": (positions.base_logprobs.isfinite() | ~present).all(),
        "values": (positions.values.isfinite() | ~present[..., None]).all(),
    }
    if broken := [name for name, is_finite in finite.items() if not is_finite]:
        raise RunDirError(f"{folder}: {broken[0]} holds NaN or infinity; remove the folder to sample it again")
    return positions
