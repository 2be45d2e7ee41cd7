"""A distillation's folder and its teacher: what they are known by, and what they refuse."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import random_tensors
from training.distill.run import DistillRun, open_distillation, read_teacher
from training.errors import RunDirError
from training.recipe import Recipe
from training.recipe_file import read_recipe
from training.runs.run import Run, write_recipe
from training.runs.run_dir import RunDir
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.value_config import ValueConfig
from valuemodels.models.checkpoint import read_tensors, save_checkpoint


@pytest.fixture
def recipe() -> Recipe:
    return read_recipe("embedded")


@pytest.fixture
def run(recipe: Recipe, tmp_path: Path, tiny_base: str, tiny_checkpoint: Path) -> DistillRun:
    return DistillRun(recipe, RunDir(tmp_path / "run"), tiny_base, teacher=read_teacher(tiny_checkpoint))


def _changed(run: DistillRun, **changes: object) -> DistillRun:
    distill = run.recipe.distill.model_copy(update=changes)
    recipe = run.recipe.model_copy(update={"distill": distill})
    return DistillRun(recipe, run.run_dir, run.base_folder, teacher=run.teacher)


def test_stages_have_their_order(run: DistillRun) -> None:
    assert run.stages == ("prompts", "positions", "probe", "probe_scales", "distilled")
    assert list(run.stage("probe").inputs) == ["prompts", "positions", "probe"]


def test_every_setting_of_the_recipe_counts_in_exactly_one_stage(run: DistillRun) -> None:
    """Would catch a new setting that changes the result of a run without making it another one."""
    own = run.own_inputs()
    for name in type(run.recipe.distill).model_fields:
        assert [stage for stage in ("positions", "probe") if name in own[stage]] in (["positions"], ["probe"]), name


def test_probe_of_a_teacher_does_not_count(tiny_checkpoint: Path, tiny_probed_checkpoint: Path, tmp_path: Path) -> None:
    """Would catch a run that cannot be resumed once its result has taken the teacher's place."""
    plain, probed = read_teacher(tiny_checkpoint), read_teacher(tiny_probed_checkpoint)
    assert (plain.had_probe, probed.had_probe) == (False, True)
    distilled = probed.config.model_copy(update={"id": "tiny+0a1b2c3d", "format_version": 2})
    config = distilled.model_copy(update={"probe": tiny_probe(tiny_probed_checkpoint)})
    save_checkpoint(tmp_path / "distilled", config, read_tensors(tiny_probed_checkpoint))
    teacher = read_teacher(tmp_path / "distilled")
    assert teacher.config.id == "tiny" and teacher.config.probe is None
    assert teacher.digest == plain.digest


def tiny_probe(folder: Path) -> object:
    from valuemodels.contract.value_config import read_value_config

    return read_value_config(folder).probe


@pytest.mark.parametrize("what", ["tensors", "config"])
def test_other_teacher_has_another_digest(
    what: str, tiny_base: str, tiny_config: Callable[..., ValueConfig], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = tiny_config(head={"kind": "linear"}) if what == "config" else tiny_config()
    save_checkpoint(tmp_path / "other", config, random_tensors(tiny_config(), tiny_base, seed=1 + (what == "tensors")))
    assert read_teacher(tmp_path / "other").digest != read_teacher(tiny_checkpoint).digest


def test_missing_or_broken_teacher_is_one_sentence(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no value_config\.json"):
        read_teacher(tmp_path)
    shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_teacher(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        read_teacher(tmp_path / "broken")


def test_stages_processes_find_recipe_and_teacher_in_the_runs_folder(run: DistillRun) -> None:
    run.write()
    assert open_distillation(run.run_dir.path, Path(run.base_folder)) == run


def test_folder_of_the_other_kind_is_refused(run: DistillRun, recipe: Recipe, tmp_path: Path) -> None:
    training = RunDir(tmp_path / "training")
    write_recipe(training, recipe)
    with pytest.raises(RunDirError, match="holds a training run, not a distillation"):
        DistillRun(recipe, training, run.base_folder, teacher=run.teacher).write()
    run.write()
    with pytest.raises(RunDirError, match="holds a distillation"):
        Run(recipe, run.run_dir, run.base_folder).write()
    with pytest.raises(RunDirError, match="holds no distillation"):
        open_distillation(training.path)


def test_changed_setting_is_refused_by_the_stages_it_concerns(run: DistillRun) -> None:
    for name in ("positions", "probe"):
        run.stage(name).start()
    _changed(run, rank=4).stage("positions").check()
    with pytest.raises(RunDirError, match=r"probe\.rank = 128, but it is 4 now"):
        _changed(run, rank=4).stage("probe").check()
    with pytest.raises(RunDirError, match=r"positions\.max_weight = 1\.5, but it is 1\.0 now"):
        _changed(run, max_weight=1.0).stage("positions").check()


def test_changed_teacher_is_refused(
    run: DistillRun, tiny_base: str, tiny_config: Callable[..., ValueConfig], tmp_path: Path
) -> None:
    run.stage("positions").start()
    save_checkpoint(tmp_path / "other", tiny_config(), random_tensors(tiny_config(), tiny_base, seed=7))
    other = DistillRun(run.recipe, run.run_dir, run.base_folder, teacher=read_teacher(tmp_path / "other"))
    other.stage("prompts").check()
    with pytest.raises(RunDirError, match=r"positions\.teacher"):
        other.stage("positions").check()


def test_stage_of_another_plan_is_refused(run: DistillRun) -> None:
    with pytest.raises(RunDirError, match="stage: got 'fit', allowed is one of prompts, positions"):
        run.stage("fit")
