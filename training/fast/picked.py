"""Which positions of a reply, and which of their candidates, are looked at more closely than the one that was sampled.

What is found of them is stored by shard, beside these columns:

    reply      [labels] int64                which of the shard's replies
    place      [labels] int64                position in it
    candidates [labels, m] int64             which of the position's candidates; 0 where there are fewer
    weights    [labels, m] float32           the share of the base's mass that each stands for, together 1

Imports torch, never vllm.
"""

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.fast.positions import PositionData
from training.fast.replies import ReplyShard, reply_shards
from training.fast.run import FastRun
from training.fast_recipe import PickRecipe
from training.rollouts.shards import Rollout, read_shard


def pick_of_reply(reply: Rollout, base_logprobs: Tensor, recipe: PickRecipe) -> dict[str, Tensor]:
    """`place`, `candidates` and `weights` of a reply; always the same ones for the same reply.

    Args:
        base_logprobs: [tokens, k] of its candidates.
    """
    dice = torch.Generator().manual_seed(zlib.crc32(f"{reply.prompt_id}:{reply.sample}".encode()))
    count = max(1, round(recipe.positions * len(base_logprobs)))
    places = torch.randperm(len(base_logprobs), generator=dice)[:count].sort().values
    candidates, weights = pick_candidates(base_logprobs[places], recipe, dice)
    return {"place": places, "candidates": candidates, "weights": weights}


def pick_candidates(base_logprobs: Tensor, recipe: PickRecipe, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which candidates are labelled: the likeliest, and some of the others by lot, which stand for all of those.

    Args:
        base_logprobs: [positions, k], best first; -inf where there is no candidate.

    Returns:
        [positions, m] candidates, 0 where there are fewer; [positions, m] their weights, of sum 1, 0 where there are.
    """
    mass = base_logprobs.exp()
    k = mass.shape[1]
    likeliest = min(recipe.likeliest, k)
    others = min(recipe.others, k - likeliest)
    present = mass > 0
    # Absent candidates are drawn last.
    lots = torch.rand(len(mass), k - likeliest, generator=dice).masked_fill(~present[:, likeliest:], 2.0)
    drawn = likeliest + lots.argsort(1)[:, :others]
    candidates = torch.cat([torch.arange(likeliest).expand(len(mass), -1), drawn], dim=1)
    weights = mass.gather(1, candidates)
    there = present[:, likeliest:].sum(1, keepdim=True)
    weights[:, likeliest:] *= there / there.clamp(1, max(others, 1))
    is_there = present.gather(1, candidates)
    return candidates.where(is_there, 0), weights / weights.sum(1, keepdim=True)


def picked_path(run: FastRun, stage: Literal["labels", "lookahead"], shard: ReplyShard) -> Path:
    """Where a stage stores what it found of a shard; there is no file where it looked at none of its replies."""
    return run.stage(stage).folder / f"{shard.path.stem.replace('shard', stage)}.safetensors"


def read_picked(
    run: FastRun, stage: Literal["labels", "lookahead"], data: PositionData
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Shard by shard the index of each label into its round's positions, and what is stored.

    Raises:
        RunDirError: it is not all there yet.
    """
    run.finished(stage)
    for shard in reply_shards(run):
        if (path := picked_path(run, stage, shard)).is_file():
            stored = load_file(path)
            yield positions_of(stored, shard, data), stored


def positions_of(stored: Mapping[str, Tensor], shard: ReplyShard, data: PositionData) -> Tensor:
    """Index of each label of a shard into its round's positions: [labels]."""
    number = {key: index for index, key in enumerate(data.keys)}
    starts = torch.bincount(data.reply, minlength=len(data.keys)).cumsum(0).roll(1)
    starts[0] = 0
    keys = [(reply.prompt_id, reply.sample) for reply in read_shard(shard.path)]
    replies = torch.tensor([number[keys[reply]] for reply in stored["reply"].tolist()], dtype=torch.long)
    return starts[replies] + stored["place"]
