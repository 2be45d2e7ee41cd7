"""Recorded positions in order: found by name, whole or not at all."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.training.recorded import random_candidates, random_data, write_recorded
from training.errors import RunDirError
from training.fast.positions import join_positions, ordered, read_recorded
from training.rollouts.shards import Rollout


def reply(tokens: tuple[int, ...], name: str = "p") -> Rollout:
    return Rollout(name, "train", 0, (5,), tokens, "text", "length", 0.0)


def recorded(folder: Path, order: list[tuple[int, int]], names: list[str], tokens: list[int]) -> torch.Tensor:
    """Write one position for each (sequence, place); its first candidate is the token sampled there."""
    columns = random_candidates(len(order), torch.Generator().manual_seed(2))
    columns["token_ids"][:, 0] = torch.tensor(tokens, dtype=torch.int32)
    columns["logprobs"] = columns["base_logprobs"].clone()
    columns["sequence"] = torch.tensor([sequence for sequence, _ in order], dtype=torch.int32)
    columns["place"] = torch.tensor([place for _, place in order], dtype=torch.int32)
    write_recorded(folder, columns, names)
    return columns["hidden"]


def test_positions_are_put_in_the_replies_order(tmp_path: Path) -> None:
    hidden = recorded(tmp_path, [(0, 1), (1, 0), (0, 0), (1, 1)], ["g2", "g1"], [8, 5, 7, 6])
    columns, kept = ordered(read_recorded(tmp_path), [reply((5, 6)), reply((7, 8))], ["g1", "g2"])
    assert kept == [0, 1]
    assert torch.equal(columns["hidden"], hidden[[1, 3, 2, 0]])
    assert columns["reply"].tolist() == [0, 0, 1, 1] and columns["place"].tolist() == [0, 1, 0, 1]
    assert columns["chosen"].tolist() == [0, 0, 0, 0]


def test_a_token_that_is_no_candidate_is_not_chosen(tmp_path: Path) -> None:
    recorded(tmp_path, [(0, 0), (0, 1)], ["g"], [5, 6])
    columns, _ = ordered(read_recorded(tmp_path), [reply((5, 1))], ["g"])
    assert columns["chosen"].tolist() == [0, -1]


def test_a_reply_that_lacks_a_position_is_left_out(tmp_path: Path) -> None:
    """Would catch advantages computed across a gap: a row that fell back to the base is not recorded."""
    recorded(tmp_path, [(0, 0), (1, 0), (1, 1)], ["g1", "g2"], [5, 7, 8])
    columns, kept = ordered(read_recorded(tmp_path), [reply((5, 6)), reply((7, 8)), reply(())], ["g1", "g2", "g3"])
    assert kept == [1] and columns["reply"].tolist() == [0, 0]


def test_a_position_done_twice_counts_as_it_was_done_last(tmp_path: Path) -> None:
    hidden = recorded(tmp_path, [(0, 0), (0, 0), (0, 1)], ["g"], [5, 5, 6])
    columns, _ = ordered(read_recorded(tmp_path), [reply((5, 6))], ["g"])
    assert torch.equal(columns["hidden"], hidden[[1, 2]])


def test_positions_of_a_reply_that_is_not_asked_for_are_left_out(tmp_path: Path) -> None:
    recorded(tmp_path, [(0, 0), (1, 0)], ["g", "stranger"], [5, 6])
    columns, kept = ordered(read_recorded(tmp_path), [reply((5,))], ["g"])
    assert kept == [0] and len(columns["hidden"]) == 1


def test_rounds_are_joined_with_their_replies_apart() -> None:
    first, second = random_data(3, 2), random_data(4, 2, seed=2)
    whole = join_positions([first, second])
    assert len(whole) == 14 and whole.reply.tolist() == [n for n in range(7) for _ in range(2)]
    assert torch.equal(whole.final_rewards[3:], second.final_rewards)
    assert whole.keys == first.keys + second.keys
    held = join_positions([random_data(3, 2, held_out=1)]).of_split("validation")
    assert held.reply.tolist() == [2, 2]


def test_unusable_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="holds no recorded positions"):
        read_recorded(tmp_path)
    recorded(tmp_path, [(0, 0)], ["g"], [5])
    (tmp_path / "positions_00001.safetensors").write_bytes(b"half")
    with pytest.raises(RunDirError, match="cannot be read"):
        read_recorded(tmp_path)
    with pytest.raises(RunDirError, match="no positions are recorded"):
        join_positions([])
    one = random_data(2, 2)
    with pytest.raises(RunDirError, match="of different models"):
        join_positions([one, dataclasses.replace(one, hidden=one.hidden[:, :8])])


@pytest.mark.parametrize("name", ["logprobs", "base_logprobs", "hidden"])
def test_a_number_that_is_none_is_named(tmp_path: Path, name: str) -> None:
    columns = random_candidates(5, torch.Generator().manual_seed(2))
    columns |= {"logprobs": columns["base_logprobs"].clone(), "place": torch.arange(5).int()}
    columns["sequence"] = torch.zeros(5, dtype=torch.int32)
    columns[name].view(-1)[7] = float("nan")
    write_recorded(tmp_path, columns, ["g"])
    with pytest.raises(RunDirError, match=rf"{name} holds NaN or infinity"):
        read_recorded(tmp_path)
