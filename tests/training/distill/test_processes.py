"""A fit that several processes carry out together, started as a run starts it: two on this machine's CPU."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.distill.run import DistillRun
from training.distill.student import EXPLAINED_OF_TEACHER
from training.errors import RecipeError
from training.rounds import carry_out_in_own_process
from training.runs.run_dir import RunDir
from training.stages import run_stage
from valuemodels.contract.value_config import read_value_config
from valuemodels.models.checkpoint import read_tensors


def of_two(run: DistillRun, folder: Path, **changes: object) -> DistillRun:
    """The run with its values to be fitted by two processes."""
    shutil.copytree(run.run_dir.path, folder)
    shutil.rmtree(folder / "iter_0" / "student")
    fit = run.recipe.fit.model_copy(update={"processes": 2, **changes})
    made = replace(run, recipe=run.recipe.model_copy(update={"fit": fit}), run_dir=RunDir(folder))
    made.write()
    return made


def test_two_processes_fit_one_trunk(distilled: DistillRun, tmp_path: Path) -> None:
    run = of_two(distilled, tmp_path / "run")
    carry_out_in_own_process(run, "student")
    values = run.finished("student") / "values"
    for objective in read_value_config(values).objectives:
        assert objective.metrics[f"test_{EXPLAINED_OF_TEACHER}"] > 0.5
    alone = read_tensors(distilled.finished("student") / "values")
    assert any(not torch.equal(tensor, alone[name]) for name, tensor in read_tensors(values).items())
    trained = next((run.stage("student").folder / "trainer").glob("checkpoint-*"))
    assert len(list(trained.glob("rng_state_*.pth"))) == 2, "both took part"


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it can be")
def test_a_trunk_cannot_be_spread_over_processors(distilled: DistillRun, tmp_path: Path) -> None:
    """Would catch a fit that says nothing and gives each of its processes the whole trunk."""
    with pytest.raises(RecipeError, match=r"fit\.sharded: got true on a machine without GPUs"):
        run_stage(of_two(distilled, tmp_path / "run", sharded=True), "student")
