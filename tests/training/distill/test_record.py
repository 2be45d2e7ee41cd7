"""Recording positions around a fake engine: who is sampled how, and what an interruption leaves."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.fake_engines import RecordingEngine
from tests.training.recorded import random_embeddings, random_positions, write_shard
from training.distill import record as positions
from training.distill.positions import load_position_data, read_split
from training.distill.record import position_requests, position_shards, split_folder
from training.distill.run import DistillRun, read_teacher
from training.errors import RunDirError
from training.prompts.chat import ChatPrompt
from training.recipe_file import read_recipe
from training.runs.run_dir import RunDir
from training.stages import run_stage
from valuemodels.contract.errors import CheckpointError

PROMPTS = [ChatPrompt(f"p{number}", "train", "text", (5, 6, 7)) for number in range(300)]


@pytest.fixture
def run(tmp_path: Path, chat_base: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> DistillRun:
    monkeypatch.setattr(positions, "RolloutEngine", RecordingEngine)
    RecordingEngine.asked = []
    recipe = read_recipe("embedded")
    distill = recipe.distill.model_copy(update={"samples": 3, "held_out_samples": 2, "shard_prompts": 4})
    recipe = recipe.model_copy(update={"limit": 6, "distill": distill})
    return DistillRun(recipe, RunDir(tmp_path / "run"), chat_base, teacher=read_teacher(tiny_checkpoint))


def record(run: DistillRun) -> dict[str, Any]:
    run_stage(run, "prompts")
    run_stage(run, "positions")
    return run.stage("positions").summary()


def test_every_reply_is_recorded_in_its_prompts_split(run: DistillRun) -> None:
    summary = record(run)
    assert summary["replies"] == len(RecordingEngine.asked) == 6 * 3 + 12 * 2
    assert {split: len(data) for split, data in load_position_data(run).items()} == {
        "train": 18 * 3, "validation": 12 * 3, "test": 12 * 3,
    }  # fmt: skip


def test_half_of_the_replies_come_from_the_base_and_half_are_tilted(run: DistillRun) -> None:
    requests = position_requests(run, PROMPTS)
    tilted = [request for request in requests if request.guidance and request.guidance.weights]
    assert len(tilted) == pytest.approx(len(requests) / 2, rel=0.1)
    by_prompt = Counter(request.prompt_id for request in tilted)
    assert set(by_prompt.values()) == {1, 2}


def test_replies_of_the_base_are_scored_although_nothing_tilts_them(run: DistillRun) -> None:
    """Would catch base replies whose positions nobody records: the guide leaves plain rows alone."""
    for request in position_requests(run, PROMPTS[:5]):
        assert request.guidance is not None
        assert (request.guidance.trace == "values") == (not request.guidance.weights)
        assert request.guidance.scoring == "exact"


def test_weights_fill_the_range_for_each_objective(run: DistillRun) -> None:
    requests = position_requests(run, PROMPTS)
    drawn = [request.guidance.weights for request in requests if request.guidance and request.guidance.weights]
    assert all(weights.keys() == {"warmth", "brevity"} for weights in drawn)
    for name in ("warmth", "brevity"):
        values = torch.tensor([weights[name] for weights in drawn])
        assert -1.5 <= values.min() < -1.4 and 1.4 < values.max() <= 1.5
        assert values.mean().abs() < 0.15


def test_request_does_not_depend_on_its_neighbours(run: DistillRun) -> None:
    whole = {(r.prompt_id, r.sample): r for r in position_requests(run, PROMPTS[:10])}
    alone = {(r.prompt_id, r.sample): r for r in position_requests(run, PROMPTS[3:5])}
    assert all(whole[key] == request for key, request in alone.items())
    assert len({request.seed for request in whole.values()}) == len(whole)
    assert len({request.guidance.generation_id for request in whole.values() if request.guidance}) == len(whole)


def test_interrupted_recording_repeats_the_missing_shard_alone(run: DistillRun) -> None:
    record(run)
    stage = run.stage("positions")
    whole = load_position_data(run)
    (stage.folder / "done.json").unlink()
    shard = list(position_shards(run))[1]
    shard.folder.rename(shard.folder.with_name(f"{shard.folder.name}.partial"))
    write_shard(
        shard.folder.with_name(f"{shard.folder.name}.partial"), random_positions(9, None, random_embeddings()), 7
    )
    RecordingEngine.asked = []
    run_stage(run, "positions")
    assert {request.prompt_id for request in RecordingEngine.asked} == {p.prompt_id for p in shard.prompts}
    for split, data in load_position_data(run).items():
        assert torch.equal(data.token_ids, whole[split].token_ids)


def test_engine_that_dies_leaves_no_shard(run: DistillRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordingEngine, "dies_after", 1)
    with pytest.raises(RuntimeError, match="died"):
        record(run)
    assert [shard.is_done for shard in position_shards(run)].count(True) == 1


def test_teacher_of_another_tokenizer_is_refused(run: DistillRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "tokenizer_fingerprint", lambda model: "0123456789abcdef")
    with pytest.raises(
        CheckpointError, match=r"trained with the tokenizer of tiny-base .* another one \(0123456789ab\)"
    ):
        record(run)
    assert RecordingEngine.asked == []


@pytest.mark.parametrize("name", ["values", "base_logprobs", "hidden"])
def test_shard_with_a_number_that_is_none_is_named(tmp_path: Path, name: str) -> None:
    columns = random_positions(5, None, random_embeddings())
    write_shard(tmp_path / "shard_0000", columns)
    columns[name].view(-1)[7] = float("nan")
    write_shard(tmp_path / "shard_0001", columns)
    with pytest.raises(RunDirError, match=rf"shard_0001: {name} holds NaN or infinity; remove the folder"):
        read_split(tmp_path)


def test_values_of_absent_candidates_may_be_anything(tmp_path: Path) -> None:
    columns = random_positions(5, None, random_embeddings())
    columns["base_logprobs"][2, -2:] = float("-inf")
    columns["values"][2, -2:] = float("nan")
    write_shard(tmp_path / "shard_0000", columns)
    data = read_split(tmp_path)
    assert data.advantages.isfinite().all() and (data.advantages[2, -2:] == 0).all()


def test_values_are_centred_on_the_bases_expectation(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard_0000", random_positions(5, None, random_embeddings()))
    data = read_split(tmp_path)
    expectation = torch.einsum("pkn,pk->pn", data.advantages, data.base_logprobs.exp())
    torch.testing.assert_close(expectation, torch.zeros_like(expectation), atol=1e-5, rtol=0)


def test_unusable_shards_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="holds no recorded positions"):
        read_split(tmp_path)
    (tmp_path / "shard_0000").mkdir()
    with pytest.raises(RunDirError, match="holds no recorded positions"):
        read_split(tmp_path)
    (tmp_path / "shard_0000" / "positions_00000.safetensors").write_bytes(b"half")
    with pytest.raises(RunDirError, match="shard_0000 cannot be read"):
        read_split(tmp_path)


def test_shards_of_different_models_are_refused(tmp_path: Path) -> None:
    columns = random_positions(5, None, random_embeddings())
    write_shard(tmp_path / "shard_0000", columns)
    write_shard(tmp_path / "shard_0001", {**columns, "hidden": columns["hidden"][:, :8]})
    with pytest.raises(RunDirError, match="mixes positions of different models"):
        read_split(tmp_path)


def test_a_splits_shards_lie_in_a_folder_of_its_own(run: DistillRun) -> None:
    run_stage(run, "prompts")
    for shard in position_shards(run):
        splits = {prompt.split for prompt in shard.prompts}
        assert len(splits) == 1 and shard.folder.parent == split_folder(run, splits.pop())
