"""The stage that labels positions with exact values: one tree-masked forward of the teacher's trunk a reply.

The reply is the stem. At each labelled position some of its candidates are leaves, which attend to the tokens before
them and to themselves; so all of them are valued at once, and nothing is sampled through the slow exact guide.

    labels_<n>.safetensors, of shard n of the base's replies: the columns of `picked`, and

        values     [labels, m, objectives] float32

Runs in its own process, started by `training.rounds`. Imports torch, never vllm.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.fast.picked import pick_of_reply, picked_path, read_picked
from training.fast.positions import PositionData, ordered, read_recorded
from training.fast.replies import ReplyShard, reply_names, reply_shards
from training.fast.run import FastRun
from training.fast_recipe import LabelRecipe
from training.rollouts.shards import Rollout, read_shard
from training.runs.progress import progress
from training.runs.run_dir import replacing
from valuemodels.models.checkpoint import load_value_model
from valuemodels.models.trunk import ValueModel


@dataclass(frozen=True, slots=True)
class Labels:
    """Values of some candidates at some positions; columns as in the files.

    Attributes:
        position: [labels] index into the base's `PositionData`.
    """

    position: Tensor
    candidates: Tensor
    weights: Tensor
    values: Tensor

    def __len__(self) -> int:
        return self.position.shape[0]

    def select(self, index: Tensor) -> "Labels":
        return Labels(self.position[index], self.candidates[index], self.weights[index], self.values[index])

    @property
    def advantages(self) -> Tensor:
        """[labels, m, objectives] values less their expectation."""
        return centred(self.values, self.weights)


def centred(values: Tensor, weights: Tensor) -> Tensor:
    """Values less their mean under the weights: [labels, m, objectives], [labels, m]."""
    return values - (weights[..., None] * values).sum(1, keepdim=True)


def label_positions(run: FastRun) -> dict[str, Any]:
    """Label shard by shard; what an earlier run finished stays."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    run.finished("replies")
    assert run.teacher is not None, "a run without a teacher has no labels"
    model = load_value_model(run.teacher.folder, run.base_folder, dtype=torch.float32, device="cpu")
    chosen = labelled_replies(run)
    labels = 0
    with progress("labels", sum(map(len, chosen.values()))) as advance:
        for index, shard in enumerate(reply_shards(run)):
            path = picked_path(run, "labels", shard)
            if index in chosen and not path.is_file():
                found = _label_shard(run, model, shard, chosen[index], advance)
                with replacing(path) as partial:
                    save_file(found, partial)
            elif index in chosen:
                advance(len(chosen[index]))
            labels += len(load_file(path)["place"]) if index in chosen else 0
    return {"replies": sum(map(len, chosen.values())), "positions": labels}


def labelled_replies(run: FastRun) -> dict[int, list[int]]:
    """Shard -> which of its replies are labelled: the first so many to train on, and one a validation prompt."""
    chosen: dict[int, list[int]] = {}
    left = run.recipe.fast.labels.replies
    for index, shard in enumerate(reply_shards(run)):
        for number, reply in enumerate(read_shard(shard.path)):
            is_train = reply.split == "train"
            if (is_train and left > 0) or (not is_train and reply.sample == 0):
                left -= is_train
                chosen.setdefault(index, []).append(number)
    return chosen


def load_labels(run: FastRun, data: PositionData) -> Labels:
    """All labels of a run, in the positions of round 0.

    Raises:
        RunDirError: they are not all made yet.
    """
    parts = [
        (position, stored["candidates"], stored["weights"], stored["values"])
        for position, stored in read_picked(run, "labels", data)
    ]
    return Labels(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.inference_mode()
def tree_values(
    model: ValueModel, prompt: Sequence[int], reply: Sequence[int], places: Tensor, leaves: Tensor
) -> Tensor:
    """Values of prompt + the reply's first tokens + one leaf.

    Args:
        places: [labels] how many of the reply's tokens come before the leaf.
        leaves: [labels, m] token ids.

    Returns:
        [labels, m, objectives]
    """
    stem = torch.tensor([*prompt, *reply])[: len(prompt) + int(places.max())]
    size, (labels, m) = len(stem), leaves.shape
    before = len(prompt) + places.repeat_interleave(m)
    tokens = torch.cat([stem, leaves.flatten()])
    # A leaf's own column is in the lower right part; among themselves leaves are strangers.
    on_stem = torch.arange(size) < torch.cat([torch.arange(1, size + 1), before])[:, None]
    among_leaves = torch.cat([torch.zeros(size, labels * m, dtype=torch.bool), torch.eye(labels * m, dtype=torch.bool)])
    seen = torch.cat([on_stem, among_leaves], dim=1)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    positions = torch.cat([torch.arange(size), before])
    output = model.backbone(input_ids=tokens[None], attention_mask=mask, position_ids=positions[None], use_cache=False)
    values = cast(Tensor, model.head(output.last_hidden_state[0, size:]))
    return values.reshape(labels, m, -1)


def _label_shard(
    run: FastRun, model: ValueModel, shard: ReplyShard, chosen: Sequence[int], advance: Any
) -> dict[str, Tensor]:
    recipe = run.recipe.fast.labels
    replies = list(read_shard(shard.path))
    columns, kept = ordered(read_recorded(shard.positions), replies, reply_names(run, shard.prompts))
    parts: list[dict[str, Tensor]] = []
    for reply in chosen:
        if reply in kept:
            rows = (columns["reply"] == kept.index(reply)).nonzero().flatten()
            found = _label_reply(
                model, replies[reply], columns["token_ids"][rows], columns["base_logprobs"][rows], recipe
            )
            parts.append({"reply": torch.full_like(found["place"], reply), **found})
        advance(1)
    return {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}


def _label_reply(
    model: ValueModel, reply: Rollout, token_ids: Tensor, base_logprobs: Tensor, recipe: LabelRecipe
) -> dict[str, Tensor]:
    picked = pick_of_reply(reply, base_logprobs, recipe)
    leaves = token_ids[picked["place"]].long().gather(1, picked["candidates"])
    values = tree_values(model, reply.prompt_token_ids, reply.output_token_ids, picked["place"], leaves)
    return {**picked, "values": values}
