"""Rollouts on disk: Parquet shards, each written whole or not at all.

They are written through `datasets`, so that their features are in the file and `load_dataset` finds them; they are read
by pyarrow, since `datasets` would copy every shard into its cache first.

Runs in any training process. Must not import torch or vllm.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value, disable_progress_bars

from training.prompts.chat import ChatPrompt, SplitName
from training.rollouts.engine import Reply
from training.runs.run_dir import replacing

_FEATURES = Features(
    {
        "prompt_id": Value("string"),
        "split": Value("string"),
        "sample": Value("int32"),
        "prompt_token_ids": List(Value("int32")),
        "output_token_ids": List(Value("int32")),
        "text": Value("string"),
        "finish_reason": Value("string"),
        "kl_nats": Value("float32"),
        "log_ratios": List(Value("float32")),
        "nodes": List(Value("int32")),
        "ends": List(Value("int32")),
        "base_logprob": Value("float32"),
        "cut_nats": Value("float32"),
    }
)

_LISTS = [name for name, feature in _FEATURES.items() if isinstance(feature, List)]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled reply, as training reads it.

    Attributes:
        output_token_ids: with the end-of-sequence token, where the reply ended by itself.
        log_ratios: one a token of the reply, see `Reply`; nodes, ends, base_logprob, cut_nats: as there.
    """

    prompt_id: str
    split: SplitName
    sample: int
    prompt_token_ids: tuple[int, ...]
    output_token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    kl_nats: float
    log_ratios: tuple[float, ...] = ()
    nodes: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    base_logprob: float = 0.0
    cut_nats: float = 0.0


def parts_of(prompts: Sequence[ChatPrompt], size: int) -> list[Sequence[ChatPrompt]]:
    """The prompts in parts of `size`, one a shard."""
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard_{index:04d}.parquet"


def write_shard(path: Path, prompts: Sequence[ChatPrompt], replies: Sequence[Reply]) -> None:
    """Write the replies to these prompts."""
    splits = {prompt.prompt_id: prompt.split for prompt in prompts}
    rows = [
        {
            "prompt_id": reply.prompt_id,
            "split": splits[reply.prompt_id],
            "sample": reply.sample,
            "prompt_token_ids": reply.prompt_token_ids,
            "output_token_ids": reply.token_ids,
            "text": reply.text,
            "finish_reason": reply.finish_reason,
            "kl_nats": reply.kl_nats,
            "log_ratios": reply.log_ratios,
            "nodes": reply.nodes,
            "ends": reply.ends,
            "base_logprob": reply.base_logprob,
            "cut_nats": reply.cut_nats,
        }
        for reply in replies
    ]
    write_parquet(path, Dataset.from_list(rows, features=_FEATURES))


def write_parquet(path: Path, rows: Dataset) -> None:
    """Write a file, whole or not at all."""
    disable_progress_bars()  # of every shard; the stage shows where it stands
    with replacing(path) as partial:
        rows.to_parquet(partial)


def read_rollouts(folder: Path) -> list[Rollout]:
    """Every rollout of a folder, in the order of the shards."""
    return [rollout for path in sorted(folder.glob("shard_*.parquet")) for rollout in read_shard(path)]


def read_shard(path: Path) -> Iterator[Rollout]:
    """The rollouts of one shard, in their order."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    for row in rows:
        for key in _LISTS:
            row[key] = tuple(row[key])
        yield Rollout(**row)
