"""The folder of a probe being made, and its teacher: what they are known by, and what they refuse."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import random_tensors
from training.errors import RunDirError
from training.fast.run import FastRun, open_fast_run
from training.fast_recipe import PickRecipe
from training.recipe import Recipe
from training.runs.run import Run
from training.runs.run_dir import RunDir
from training.runs.teacher import read_teacher
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.value_config import ValueConfig, read_value_config
from valuemodels.models.checkpoint import read_tensors, save_checkpoint


@pytest.fixture
def run(fresh: FastRun) -> FastRun:
    """With the shipped recipe's two tilted rounds."""
    fast = fresh.recipe.fast.model_copy(update={"rounds": (2, 1)})
    return replace(fresh, recipe=fresh.recipe.model_copy(update={"fast": fast}))


def changed(run: FastRun, **changes: object) -> FastRun:
    fast = run.recipe.fast.model_copy(update=changes)
    return replace(run, recipe=run.recipe.model_copy(update={"fast": fast}))


def test_stages_have_their_order(run: FastRun) -> None:
    first, second, third = run.iterations
    assert first.stages == ("prompts", "invented", "replies", "reply_rewards", "labels", "probe")
    assert second.stages == ("replies", "reply_rewards", "probe")
    assert third.stages == ("replies", "reply_rewards", "probe", "probe_scales", "probe_export")
    alone = replace(run, teacher=None)
    assert alone.stages == ("prompts", "invented", "replies", "reply_rewards", "probe")
    ahead = changed(run, lookahead=PickRecipe()).iterations
    assert ahead[0].stages == ("prompts", "invented", "replies", "reply_rewards", "lookahead", "probe")
    assert ahead[1].stages == ("replies", "reply_rewards", "lookahead", "probe")
    base_only = changed(run, rounds=())
    assert base_only.stages == (*first.stages, "probe_scales", "probe_export")


def test_every_setting_of_the_recipe_counts(run: FastRun) -> None:
    """Would catch a new setting that changes the result of a run without making it another one."""
    last = run.at(run.last).stage("probe_scales").inputs
    others = {
        "source": "trunk", "hidden": 7, "rank": 3, "invented_prompts": 1, "samples": 9, "held_out_samples": 9,
        "shard_prompts": 3, "rounds": (5, 1),
        "lookahead": PickRecipe(others=2),
        "labels": run.recipe.fast.labels.model_copy(update={"others": 2}),
        "distill": run.recipe.fast.distill.model_copy(update={"epochs": 3}),
        "critic": run.recipe.fast.critic.model_copy(update={"gae_lambda": 0.9}),
        "advantages": run.recipe.fast.advantages.model_copy(update={"epochs": 3}),
        "tilts": run.recipe.fast.tilts.model_copy(update={"high": 2.0}),
    }  # fmt: skip
    assert others.keys() == type(run.recipe.fast).model_fields.keys()
    for name, value in others.items():
        other = changed(run, **{name: value})
        assert other.at(other.last).stage("probe_scales").inputs != last, name


def test_probe_of_a_teacher_does_not_count(tiny_checkpoint: Path, tiny_probed_checkpoint: Path, tmp_path: Path) -> None:
    """Would catch a run that cannot be resumed once its result has taken the teacher's place."""
    plain, probed = read_teacher(tiny_checkpoint), read_teacher(tiny_probed_checkpoint)
    assert (plain.had_probe, probed.had_probe) == (False, True)
    probe = read_value_config(tiny_probed_checkpoint).probe
    config = probed.config.model_copy(update={"id": "tiny+0a1b2c3d", "format_version": 3, "probe": probe})
    save_checkpoint(tmp_path / "shipped", config, read_tensors(tiny_probed_checkpoint))
    teacher = read_teacher(tmp_path / "shipped")
    assert teacher.config.id == "tiny" and teacher.config.probe is None
    assert teacher.digest == plain.digest


@pytest.mark.parametrize("what", ["tensors", "config"])
def test_other_teacher_has_another_digest(
    what: str, tiny_base: str, tiny_config: Callable[..., ValueConfig], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = tiny_config(head={"kind": "linear"}) if what == "config" else tiny_config()
    save_checkpoint(tmp_path / "other", config, random_tensors(tiny_config(), tiny_base, seed=1 + (what == "tensors")))
    assert read_teacher(tmp_path / "other").digest != read_teacher(tiny_checkpoint).digest


def test_missing_or_broken_teacher_is_one_sentence(
    tiny_checkpoint: Path, tiny_probed_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"has no value_config\.json"):
        read_teacher(tmp_path)
    shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_teacher(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        read_teacher(tmp_path / "broken")


def test_a_probe_alone_teaches_nothing(
    tiny_config: Callable[..., ValueConfig], tiny_probed_checkpoint: Path, tmp_path: Path
) -> None:
    config = read_value_config(tiny_probed_checkpoint)
    objectives = tuple(objective.model_copy(update={"scale": None}) for objective in config.objectives)
    alone = config.model_copy(update={"backbone": None, "head": None, "objectives": objectives, "format_version": 3})
    save_checkpoint(tmp_path / "alone", alone, read_tensors(tiny_probed_checkpoint, part="probe"))
    with pytest.raises(CheckpointError, match="has no trunk, so it offers no exact scoring"):
        read_teacher(tmp_path / "alone")


@pytest.mark.parametrize("has_teacher", [True, False])
def test_stages_processes_find_recipe_and_teacher_in_the_runs_folder(run: FastRun, has_teacher: bool) -> None:
    written = run if has_teacher else replace(run, teacher=None)
    written.write()
    assert open_fast_run(run.run_dir.path, Path(run.base_folder)) == written


def test_folder_of_the_other_kind_is_refused(run: FastRun, small_recipe: Recipe, tmp_path: Path) -> None:
    training = Run(small_recipe, RunDir(tmp_path / "training"), run.base_folder)
    training.write()
    with pytest.raises(
        RunDirError, match=r"holds a run of another kind \(training, not fast\): give another --run-dir"
    ):
        replace(run, run_dir=training.run_dir).write()
    run.write()
    with pytest.raises(RunDirError, match=r"holds a run of another kind \(fast, not training\)"):
        replace(training, run_dir=run.run_dir).write()
    with pytest.raises(RunDirError, match="holds a run of another kind: training, not fast"):
        open_fast_run(training.run_dir.path)
    with pytest.raises(RunDirError, match=r"holds no training run: it has no kind\.json"):
        open_fast_run(tmp_path / "nothing")


def test_changed_setting_is_refused_by_the_stages_it_concerns(run: FastRun) -> None:
    for name in ("invented", "probe"):
        run.stage(name).start()
    run.at(1).stage("replies").start()
    advantages = run.recipe.fast.advantages.model_copy(update={"epochs": 3})
    other = changed(run, advantages=advantages)
    other.stage("invented").check()
    with pytest.raises(RunDirError, match=r"probe\.advantages\.epochs = 6, but it is 3 now"):
        other.stage("probe").check()
    with pytest.raises(RunDirError, match=r"round 0\.probe\.advantages\.epochs = 6, but it is 3 now"):
        other.at(1).stage("replies").check()
    changed(run, rounds=(2, 2)).at(1).stage("replies").check()
    with pytest.raises(RunDirError, match=r"invented\.invented_prompts = 30, but it is 29 now"):
        changed(run, invented_prompts=29).stage("invented").check()


def test_changed_teacher_is_refused(
    run: FastRun, tiny_base: str, tiny_config: Callable[..., ValueConfig], tmp_path: Path
) -> None:
    run.stage("labels").start()
    assert run.teacher is not None
    config = run.teacher.config
    save_checkpoint(tmp_path / "other", config, random_tensors(config, tiny_base, seed=7))
    other = replace(run, teacher=read_teacher(tmp_path / "other"))
    other.stage("replies").check()
    with pytest.raises(RunDirError, match=r"labels\.teacher"):
        other.stage("labels").check()


def test_stage_of_another_plan_is_refused(run: FastRun) -> None:
    with pytest.raises(RunDirError, match="stage: got 'fit', allowed is one of prompts, invented"):
        run.stage("fit")
