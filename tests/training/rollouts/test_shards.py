"""Shards of rollouts are whole, read back as they were written, and are what the `datasets` library opens."""

from pathlib import Path

import pytest
from datasets import load_dataset

from training.prompts.chat import ChatPrompt
from training.rollouts.engine import Reply
from training.rollouts.shards import read_rollouts, read_shard, shard_path, write_shard

PROMPTS = [ChatPrompt("a", "train", "one", (1, 2)), ChatPrompt("b", "test", "two", (3,))]
REPLIES = [
    Reply("a", (1, 2), 0, (5, 6, 7), "five six", "stop", 0.5, (0.1, 0.2, 0.3), (0, 4), (1, 3)),
    Reply("b", (3,), 1, (8,), "eight", "length"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, (prompt, reply) in enumerate(zip(PROMPTS, REPLIES, strict=True)):
        write_shard(shard_path(tmp_path, index), [prompt], [reply])
    return tmp_path


def test_what_is_written_is_read_in_the_shards_order(folder: Path) -> None:
    tree, flat = read_rollouts(folder)
    assert (tree.prompt_id, tree.split, tree.sample, tree.text) == ("a", "train", 0, "five six")
    assert tree.prompt_token_ids == (1, 2) and tree.output_token_ids == (5, 6, 7)
    assert tree.nodes == (0, 4) and tree.ends == (1, 3)
    assert tree.log_ratios == pytest.approx((0.1, 0.2, 0.3)) and tree.kl_nats == 0.5
    assert (flat.split, flat.finish_reason, flat.log_ratios, flat.nodes) == ("test", "length", (), ())
    assert list(read_shard(shard_path(folder, 1))) == [flat]


def test_the_datasets_library_opens_a_folder_of_shards(folder: Path, tmp_path: Path) -> None:
    rows = load_dataset("parquet", data_files=f"{folder}/shard_*.parquet", split="train", cache_dir=f"{tmp_path}/cache")
    assert rows["text"][:] == ["five six", "eight"]
    assert rows[0]["output_token_ids"] == [5, 6, 7] and rows[0]["log_ratios"] == pytest.approx([0.1, 0.2, 0.3])
    assert set(rows.column_names) >= {"prompt_id", "split", "sample", "finish_reason", "kl_nats", "nodes", "ends"}
    assert rows.features["output_token_ids"].feature.dtype == "int32" and rows.features["kl_nats"].dtype == "float32"
