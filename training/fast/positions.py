"""Recorded positions as the fits read them: checked, in order, with what was sampled there and the rewards around it.

Runs in the fit's process. Imports torch, never vllm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from training.errors import RunDirError
from training.fast.replies import ReplyShard, reply_names, reply_shards, reply_weights
from training.fast.reply_rewards import read_shard_rewards
from training.fast.run import FastRun
from training.fit.targets import standardise
from training.prompts.chat import SplitName
from training.rollouts.shards import Rollout, read_shard
from valuemodels.guide.recorder import Positions, read_positions

NOT_CHOSEN = -1


@dataclass(frozen=True, slots=True)
class PositionData:
    """Positions of whole replies, reply by reply.

    Attributes:
        hidden: [positions, hidden] the base's final hidden states, in the base's dtype.
        token_ids: [positions, k] int32 the candidates.
        base_logprobs, logprobs: [positions, k] float32 on the candidates, before and after the tilt that sampled the
            reply; -inf where there is none.
        chosen: [positions] which candidate was sampled; -1 where the base sampled another token.
        prefix_rewards: [positions, objectives] float32 of the reply up to here, standardised.
        reply: [positions] index of the reply; place: [positions] number of the token in it.
        final_rewards: [replies, objectives] float32, standardised.
        weights: [replies, objectives] float32 that tilted the reply.
        keys: prompt id and sample of each reply; splits: of each reply.
    """

    hidden: Tensor
    token_ids: Tensor
    base_logprobs: Tensor
    logprobs: Tensor
    chosen: Tensor
    prefix_rewards: Tensor
    reply: Tensor
    place: Tensor
    final_rewards: Tensor
    weights: Tensor
    keys: tuple[tuple[str, int], ...]
    splits: tuple[SplitName, ...]

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def select(self, index: Tensor) -> "PositionData":
        """Some of the positions; the replies stay as they are."""
        return replace(self, **{name: getattr(self, name)[index] for name in _BY_POSITION})

    def of_split(self, split: SplitName) -> "PositionData":
        """The positions of one split."""
        is_wanted = torch.tensor([found == split for found in self.splits])
        return self.select(is_wanted[self.reply].nonzero().flatten())


_BY_POSITION = ("hidden", "token_ids", "base_logprobs", "logprobs", "chosen", "prefix_rewards", "reply", "place")
_BY_REPLY = ("final_rewards", "weights")


def load_positions(run: FastRun, means: Tensor, stds: Tensor) -> PositionData:
    """Everything that was recorded in one round.

    Args:
        means, stds: [objectives] of the base's reward.

    Raises:
        RunDirError: it is not all there yet, or a shard cannot be used.
    """
    run.finished("reply_rewards")
    shards = [_load_shard(run, shard, means, stds) for shard in reply_shards(run)]
    return join_positions(shards)


def join_positions(parts: Sequence[PositionData]) -> PositionData:
    """One after another.

    Raises:
        RunDirError: there is none, or they are of different models.
    """
    if not parts or not sum(map(len, parts)):
        raise RunDirError("no positions are recorded: remove the replies stage's folder to sample them again")
    if len({part.hidden.shape[1] for part in parts}) > 1:
        raise RunDirError("the recorded positions are of different models: remove the replies stages' folders")
    k = max(part.token_ids.shape[1] for part in parts)
    starts = torch.tensor([0, *(len(part.keys) for part in parts)]).cumsum(0).tolist()
    moved = [_widened(replace(part, reply=part.reply + start), k) for part, start in zip(parts, starts, strict=False)]
    columns = {name: torch.cat([getattr(part, name) for part in moved]) for name in (*_BY_POSITION, *_BY_REPLY)}
    keys = tuple(key for part in parts for key in part.keys)
    return PositionData(**columns, keys=keys, splits=tuple(split for part in parts for split in part.splits))


def _load_shard(run: FastRun, shard: ReplyShard, means: Tensor, stds: Tensor) -> PositionData:
    replies = list(read_shard(shard.path))
    final, prefixes = read_shard_rewards(run, shard)
    data, kept = ordered(read_recorded(shard.positions), replies, reply_names(run, shard.prompts))
    starts = torch.tensor([0, *(len(reply.output_token_ids) for reply in replies)]).cumsum(0)
    clip = run.recipe.fit.clip
    weights = [reply_weights(run, replies[index].prompt_id, replies[index].sample) for index in kept]
    kept_index = torch.tensor(kept, dtype=torch.long)
    offsets = starts[kept_index][data["reply"]] + data["place"]
    return PositionData(
        **data,
        prefix_rewards=standardise(prefixes[offsets], means, stds, clip).float(),
        final_rewards=standardise(final[kept_index], means, stds, clip).float(),
        weights=torch.tensor([[of.get(name, 0.0) for name in run.rewards] for of in weights]).reshape(len(kept), -1),
        keys=tuple((replies[index].prompt_id, replies[index].sample) for index in kept),
        splits=tuple(replies[index].split for index in kept),
    )


def ordered(
    recorded: Positions, replies: Sequence[Rollout], names: Sequence[str]
) -> tuple[dict[str, Tensor], list[int]]:
    """The recorded positions reply by reply, and which replies they are of: those recorded at every token.

    Args:
        names: generation id of each reply.

    Returns:
        columns of `PositionData` by position, where `reply` counts the kept replies; indices of the kept replies.
    """
    longest = max(len(reply.output_token_ids) for reply in replies)
    number = {name: index for index, name in enumerate(names)}
    of_sequence = torch.tensor([number.get(name, len(replies)) for name in recorded.sequences])
    reply, place = of_sequence[recorded.sequence.long()], recorded.place.long()
    # Row of the position of each reply and place; what the engine did twice counts as it was done last.
    table = torch.full((len(replies) + 1, longest + 1), -1)
    table[reply, place.clamp_max(longest)] = torch.arange(len(recorded))
    lengths = torch.tensor([len(reply.output_token_ids) for reply in replies])
    within = torch.arange(longest + 1) < lengths[:, None]
    is_whole = ((table[:-1] >= 0) | ~within).all(1) & (lengths > 0)
    kept = is_whole.nonzero().flatten()
    wanted = within[kept]
    rows = table[kept][wanted]
    new_reply, new_place = wanted.nonzero(as_tuple=True)
    sampled = torch.zeros(len(replies), longest, dtype=torch.int32)
    for index, each in enumerate(replies):
        sampled[index, : len(each.output_token_ids)] = torch.tensor(each.output_token_ids, dtype=torch.int32)
    token_ids, base_logprobs = recorded.token_ids[rows], recorded.base_logprobs[rows]
    hit = (token_ids == sampled[kept[new_reply], new_place][:, None]) & (base_logprobs > float("-inf"))
    columns = {
        "hidden": recorded.hidden[rows],
        "token_ids": token_ids,
        "base_logprobs": base_logprobs,
        "logprobs": recorded.logprobs[rows],
        "chosen": torch.where(hit.any(1), hit.to(torch.uint8).argmax(1), NOT_CHOSEN),
        "reply": new_reply,
        "place": new_place,
    }
    return columns, kept.tolist()


def read_recorded(folder: Path) -> Positions:
    """What was recorded in a folder.

    Raises:
        RunDirError: there is nothing, or it holds what no recorder writes.
    """
    try:
        found = read_positions(folder)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunDirError(f"{folder} cannot be read: {error}; remove the stage's folder to sample again") from None
    for name in ("hidden", "base_logprobs", "logprobs"):
        column = getattr(found, name)
        absent = column == float("-inf") if name != "hidden" else torch.zeros_like(column, dtype=torch.bool)
        if not (column.isfinite() | absent).all():
            raise RunDirError(f"{folder}: {name} holds NaN or infinity; remove the stage's folder to sample again")
    return found


def _widened(part: PositionData, k: int) -> PositionData:
    by = (0, k - part.token_ids.shape[1])
    pad = torch.nn.functional.pad
    return replace(
        part,
        token_ids=pad(part.token_ids, by),
        base_logprobs=pad(part.base_logprobs, by, value=float("-inf")),
        logprobs=pad(part.logprobs, by, value=float("-inf")),
    )
