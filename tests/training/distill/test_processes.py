"""A fit that several processes carry out together, started as a run starts it: two on this machine's CPU."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from training.distill.run import DistillRun
from training.distill.student import EXPLAINED_OF_TEACHER
from training.rounds import carry_out_in_own_process
from training.runs.run_dir import RunDir
from valuemodels.contract.value_config import read_value_config


@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp"])
def test_two_processes_fit_one_trunk(distilled: DistillRun, tmp_path: Path, sharded: bool) -> None:
    shutil.copytree(distilled.run_dir.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "iter_0" / "student")
    fit = distilled.recipe.fit.model_copy(update={"processes": 2, "sharded": sharded})
    recipe = distilled.recipe.model_copy(update={"fit": fit})
    run = replace(distilled, recipe=recipe, run_dir=RunDir(tmp_path / "run"))
    run.write()
    carry_out_in_own_process(run, "student")
    config = read_value_config(run.finished("student") / "values")
    for objective in config.objectives:
        assert objective.metrics[f"test_{EXPLAINED_OF_TEACHER}"] > 0.5
