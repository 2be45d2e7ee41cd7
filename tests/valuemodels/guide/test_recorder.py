"""What is recorded is what was scored, and comes back as it was."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.valuemodels.guide.test_traces import record, row
from tests.valuemodels.scoring.kit import scoring_batch
from valuemodels.guide.recorder import PositionRecorder, read_positions
from valuemodels.scoring.scorer import ScoringBatch
from valuemodels.tilting import Candidates


def batch(step: Any, hidden: Any, names: list[str], outputs: list[list[int]]) -> ScoringBatch:
    rows = [row(output, name, index=i) for i, (name, output) in enumerate(zip(names, outputs, strict=True))]
    return scoring_batch(Candidates(step.token_ids, step.logits), hidden, rows=rows)


def test_positions_come_back_in_order_and_padded_to_one_width(tmp_path: Path) -> None:
    recorder = PositionRecorder(tmp_path)
    first, second = record([5, 7]), record([9, 3, 6], [4])
    hidden = torch.randn(3, 8, dtype=torch.bfloat16)
    recorder.note(batch(first, hidden[:1], ["a"], [[]]), first)
    recorder.flush()
    recorder.note(batch(second, hidden[1:], ["b", "a"], [[8, 8], [5]]), second)
    recorder.flush()
    recorder.flush()
    found = read_positions(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and len(found) == 3
    assert torch.equal(found.hidden, hidden)
    assert found.token_ids.tolist() == [[5, 7, 0], [9, 3, 6], [4, 0, 0]]
    assert (found.base_logprobs > float("-inf")).sum(1).tolist() == [2, 3, 1]
    shift = (found.logprobs - found.base_logprobs)[1]
    torch.testing.assert_close(shift - shift[0], torch.tensor([0.0, -0.6, -0.3]))
    assert [found.sequences[number] for number in found.sequence] == ["a", "b", "a"]
    assert found.place.tolist() == [0, 2, 1]


def test_only_rows_that_were_scored_and_have_a_name_are_kept(tmp_path: Path) -> None:
    recorder = PositionRecorder(tmp_path)
    step = dataclasses.replace(record([5], [6], [7]), is_sound=torch.tensor([True, False, True]))
    recorder.note(batch(step, torch.randn(3, 2), ["a", "b", ""], [[], [], []]), step)
    recorder.flush()
    assert read_positions(tmp_path).token_ids.tolist() == [[5]]


def test_recording_without_hidden_states_says_so(tmp_path: Path) -> None:
    step = record([5])
    with pytest.raises(RuntimeError, match="hidden states"):
        PositionRecorder(tmp_path).note(batch(step, None, ["a"], [[]]), step)


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no recorded positions"):
        read_positions(tmp_path)
