"""Two exact checkpoints made into one, around a fake engine."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.training.killing import killed_and_gone_on_with
from training.cli import app
from training.distill import teacher_values
from training.distill.run import DistillRun, distill_run, open_distill_run
from training.distill.student import EXPLAINED_OF_TEACHER, load_teacher_values
from training.distill.teacher_values import read_values, rollout_shards, values_path
from training.errors import RecipeError, RunDirError
from training.recipe import Recipe
from training.report import copy_checkpoint, print_summary
from training.rollouts.shards import read_rollouts, read_shard
from training.runs.run import StageName
from training.runs.run_dir import RunDir
from training.stages import run_stage
from valuemodels.contract.value_config import read_value_config
from valuemodels.models.checkpoint import load_value_model


def test_one_checkpoint_has_the_objectives_of_all_and_most_of_their_values(
    distilled: DistillRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_checkpoint(distilled, tmp_path / "values")
    config = read_value_config(tmp_path / "values")
    assert config.names == ("warmth", "brevity") and config.scorings == ("exact",)
    for objective in config.objectives:
        assert (objective.mean, objective.std, objective.clip) == (0.25, 1.5, (-3, 3))
        assert objective.reward == objective.name and objective.scale != 3.0, "it is calibrated again"
        assert objective.metrics[f"test_{EXPLAINED_OF_TEACHER}"] > 0.7
        assert not any(name.endswith("_explained_variance") for name in objective.metrics), "of no reward"
    print_summary(distilled, EXPLAINED_OF_TEACHER)
    explained = f"{config.objectives[0].metrics[f'test_{EXPLAINED_OF_TEACHER}']:.2f}"
    assert explained in capsys.readouterr().out


def test_every_position_is_valued_by_every_teacher(distilled: DistillRun, teachers: list[Path], chat_base: str) -> None:
    """Would catch padding that is read, replies that change places, and objectives that do."""
    models = [load_value_model(folder, chat_base, dtype=torch.float32, device="cpu") for folder in teachers]
    for shard in rollout_shards(distilled):
        values, start = read_values(distilled, shard), 0
        for rollout in read_shard(shard):
            tokens = torch.tensor([rollout.prompt_token_ids + rollout.output_token_ids])
            positions = 1 + len(rollout.output_token_ids)
            with torch.no_grad():
                own = torch.cat([model(tokens)[0, -positions:] for model in models], dim=1)
            torch.testing.assert_close(values[start : start + positions], own, atol=1e-5, rtol=0)
            start += positions
        assert start == len(values)


def test_replies_keep_their_split_and_their_targets(distilled: DistillRun) -> None:
    data = load_teacher_values(distilled)
    rollouts = read_rollouts(distilled.finished("rollouts"))
    assert {split: len(found) for split, found in data.examples.items()} == {"train": 144, "validation": 48, "test": 48}
    for split, examples in data.examples.items():
        own = [rollout for rollout in rollouts if rollout.split == split]
        assert [e.token_ids[e.prompt_length :] for e in examples] == [rollout.output_token_ids for rollout in own]
        assert all(example.learned.counts.all() for example in examples)


def test_a_student_of_fewer_replies_keeps_their_targets(distilled: DistillRun) -> None:
    """Would catch values that are counted wrongly past a reply that is left out."""
    fewer = distilled.recipe.fit.model_copy(update={"replies": 1})
    some = load_teacher_values(replace(distilled, recipe=distilled.recipe.model_copy(update={"fit": fewer}))).examples
    everything = load_teacher_values(distilled).examples
    rollouts = [rollout for rollout in read_rollouts(distilled.finished("rollouts")) if rollout.split == "train"]
    first = [example for example, rollout in zip(everything["train"], rollouts, strict=True) if rollout.sample == 0]
    assert 0 < len(some["train"]) < len(everything["train"]) and len(some["test"]) == len(everything["test"])
    for mine, whole in zip(some["train"], first, strict=True):
        assert mine.token_ids == whole.token_ids and torch.equal(mine.learned.targets, whole.learned.targets)


def test_what_is_valued_already_is_not_valued_again(
    distilled: DistillRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(distilled.run_dir.path, tmp_path / "run")
    run = DistillRun(distilled.recipe, RunDir(tmp_path / "run"), distilled.base_folder, teachers=distilled.teachers)
    missing = values_path(run, 1, rollout_shards(run)[1])
    before = missing.read_bytes()
    missing.unlink()
    (missing.parent / "done.json").unlink()
    loaded: list[Path] = []

    def load(folder: Path, *arguments: object, **options: object) -> object:
        loaded.append(folder)
        return load_value_model(folder, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(teacher_values, "load_value_model", load)
    run_stage(run, "teacher_values")
    assert loaded == [run.teachers[1].folder] and missing.read_bytes() == before


def test_stages_processes_find_recipe_and_teachers(distilled: DistillRun) -> None:
    assert open_distill_run(distilled.run_dir.path, Path(distilled.base_folder)) == distilled


def test_teachers_that_share_an_objective_are_refused(
    small: Recipe, teachers: list[Path], make_teacher: Callable[..., Path], chat_base: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"objective warmth is in .* and in .*, allowed is once"):
        distill_run(small, [*teachers, make_teacher("warmth", 3)], tmp_path, Path(chat_base))


def test_another_teacher_under_the_same_objective_does_not_mix(
    distilled: DistillRun, small: Recipe, teachers: list[Path], make_teacher: Callable[..., Path]
) -> None:
    changed = [make_teacher("warmth", 9), teachers[1]]
    other = distill_run(small, changed, distilled.run_dir.path, Path(distilled.base_folder))
    other.stage("rollouts").check()
    with pytest.raises(RunDirError, match=r"was made with teacher_values\.teachers"):
        other.stage("teacher_values").check()


def test_command_names_what_is_wrong_and_goes_on_where_it_was(
    distilled: DistillRun, teachers: list[Path], small: Recipe, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(small.model_dump_json())
    given = ["--recipe", str(recipe), "--base-folder", distilled.base_folder]
    refused = CliRunner().invoke(app, ["distill", str(tmp_path / "none"), *given, "--run-dir", str(tmp_path / "run")])
    assert refused.exit_code == 2 and "Traceback" not in refused.output, refused.output
    names = [str(folder) for folder in teachers]
    again = ["--run-dir", str(distilled.run_dir.path), "--export", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["distill", *names, *given, *again])
    assert result.exit_code == 0, result.output
    assert "student: done before" in result.output and read_value_config(tmp_path / "out").names == (
        "warmth",
        "brevity",
    )


@pytest.mark.parametrize("name", ["teacher_values", "student"])
def test_stage_goes_on_where_it_was_killed(distilled: DistillRun, tmp_path: Path, name: StageName) -> None:
    killed_and_gone_on_with(distilled.run_dir.path, distilled.base_folder, name, 0, tmp_path)
