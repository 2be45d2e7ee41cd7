"""Labels: one tree-masked forward gives the values that one forward a candidate would."""

from pathlib import Path

import pytest
import torch

from training.fast.labels import labelled_replies, load_labels, tree_values
from training.fast.positions import load_positions
from training.fast.replies import reply_shards
from training.fast.run import FastRun
from training.rollouts.shards import read_shard
from valuemodels.models.checkpoint import load_value_model
from valuemodels.models.trunk import ValueModel

PROMPT, REPLY = [5, 6, 7, 8], [9, 10, 11, 12, 13, 14]


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, tiny_base: str) -> ValueModel:
    return load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu")


@pytest.mark.parametrize("places", [[0], [0, 3, 5], [2, 2, 4]])
def test_tree_gives_the_values_of_plain_forwards(model: ValueModel, places: list[int]) -> None:
    """Would catch a leaf that sees another leaf, a later token of the stem, or stands in the wrong place."""
    leaves = torch.arange(20, 20 + 3 * len(places)).reshape(len(places), 3)
    found = tree_values(model, PROMPT, REPLY, torch.tensor(places), leaves)
    for row, place in enumerate(places):
        for column in range(3):
            tokens = torch.tensor([[*PROMPT, *REPLY[:place], int(leaves[row, column])]])
            with torch.no_grad():
                expected = model(tokens)[0, -1]
            torch.testing.assert_close(found[row, column], expected, atol=1e-5, rtol=1e-5)


def test_labels_are_the_teachers_values_where_they_say(finished: FastRun) -> None:
    """Would catch labels that are laid beside the wrong position."""
    assert finished.teacher is not None
    run = finished.at(0)
    means, stds = (torch.tensor(column) for column in zip(*run.base_rewards().values(), strict=True))
    data = load_positions(run, means, stds)
    labels = load_labels(run, data)
    replies = {(r.prompt_id, r.sample): r for shard in reply_shards(run) for r in read_shard(shard.path)}
    model = load_value_model(finished.teacher.folder, run.base_folder, dtype=torch.float32, device="cpu")
    for label in range(0, len(labels), 17):
        position = int(labels.position[label])
        reply = replies[data.keys[int(data.reply[position])]]
        leaf = int(data.token_ids[position, labels.candidates[label, 1]])
        before = reply.output_token_ids[: int(data.place[position])]
        with torch.no_grad():
            expected = model(torch.tensor([[*reply.prompt_token_ids, *before, leaf]]))[0, -1]
        torch.testing.assert_close(labels.values[label, 1], expected, atol=1e-4, rtol=1e-4)


def test_the_recipes_number_of_replies_is_labelled_and_one_a_validation_prompt(finished: FastRun) -> None:
    run = finished.at(0)
    shards = [list(read_shard(shard.path)) for shard in reply_shards(run)]
    chosen = [shards[shard][reply] for shard, numbers in labelled_replies(run).items() for reply in numbers]
    assert sum(reply.split == "train" for reply in chosen) == 40
    held_out = [reply.prompt_id for reply in chosen if reply.split == "validation"]
    assert len(held_out) == len(set(held_out)) == 30
