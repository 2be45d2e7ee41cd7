"""The stage that values replies by the teachers, at every position: what the student is regressed on.

    values_<teacher>_<n>.safetensors, of shard n of the rollouts
        values  [positions, objectives of the teacher] float32; reply after reply, each with 1 + tokens positions

Runs in its own process, started by `training.rounds`. Imports torch, never vllm.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.distill.run import DistillRun
from training.fit.dataset import PAD_ID
from training.rollouts.shards import Rollout, read_shard
from training.runs.progress import progress
from training.runs.run_dir import replacing
from training.runs.teacher import Teacher
from valuemodels.models.checkpoint import load_value_model
from valuemodels.models.trunk import ValueModel


@dataclass(frozen=True)
class LazyTeacher:
    """A teacher whose model is loaded when it is first asked for."""

    teacher: Teacher
    base_folder: str

    @cached_property
    def model(self) -> ValueModel:
        """In float32, on the CPU or the first GPU."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return load_value_model(self.teacher.folder, self.base_folder, dtype=torch.float32, device=device)


def value_replies(run: DistillRun) -> dict[str, Any]:
    """Value shard by shard; what an earlier run finished stays."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    shards = rollout_shards(run)
    replies = [list(read_shard(shard)) for shard in shards]
    total = sum(map(len, replies))
    with progress("teacher_values", total * len(run.teachers)) as advance:
        for number, teacher in enumerate(run.teachers):
            lazy = LazyTeacher(teacher, run.base_folder)
            for shard, of_shard in zip(shards, replies, strict=True):
                path = values_path(run, number, shard)
                if not path.is_file():
                    values = values_of(lazy.model, of_shard, run.recipe.fit.batch_tokens)
                    with replacing(path) as partial:
                        save_file({"values": values}, partial)
                advance(len(of_shard), f"by {teacher.config.id}")
    return {"replies": total, "teachers": len(run.teachers)}


def rollout_shards(run: DistillRun) -> list[Path]:
    """The shards of the rollouts, in their order."""
    return sorted(run.finished("rollouts").glob("shard_*.parquet"))


def values_path(run: DistillRun, teacher: int, shard: Path) -> Path:
    """Where a teacher's values of a shard lie."""
    return run.stage("teacher_values").folder / f"{shard.stem.replace('shard', f'values_{teacher}')}.safetensors"


def read_values(run: DistillRun, shard: Path) -> Tensor:
    """[positions, objectives] the values of a shard, by all teachers, in the run's order of objectives."""
    parts = [load_file(values_path(run, teacher, shard))["values"] for teacher in range(len(run.teachers))]
    return torch.cat(parts, dim=1)


@torch.inference_mode()
def values_of(model: ValueModel, replies: Sequence[Rollout], batch_tokens: int) -> Tensor:
    """[positions, objectives] values after the prompt and after every token, reply after reply."""
    device = next(model.parameters()).device
    found: list[Tensor] = [torch.empty(0)] * len(replies)
    for batch in _batches(replies, batch_tokens):
        tokens = [torch.tensor(replies[index].prompt_token_ids + replies[index].output_token_ids) for index in batch]
        ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=PAD_ID)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(own) for own in tokens])[:, None]
        values = model(ids.to(device), mask.long().to(device)).float().cpu()
        for row, index in enumerate(batch):
            found[index] = values[row, len(replies[index].prompt_token_ids) - 1 : len(tokens[row])]
    return torch.cat(found).contiguous()


def _batches(replies: Sequence[Rollout], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of replies of similar length, at most so many tokens together, padding included."""
    lengths = [len(reply.prompt_token_ids) + len(reply.output_token_ids) for reply in replies]
    batch: list[int] = []
    for index in sorted(range(len(replies)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
