"""A fit that several processes carry out together, started as a run starts it: two on this machine's CPU."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.distill.run import DistillRun
from training.distill.student import EXPLAINED_OF_TEACHER
from training.errors import RecipeError
from training.rounds import carry_out_in_own_process
from training.runs.ranks import LAUNCHER
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


@pytest.fixture(scope="module")
def of_two_whole(distilled: DistillRun, tmp_path_factory: pytest.TempPathFactory) -> DistillRun:
    run = of_two(distilled, tmp_path_factory.mktemp("of-two") / "run")
    carry_out_in_own_process(run, "student")
    return run


def explained(run: DistillRun) -> list[float]:
    return [
        objective.metrics[f"test_{EXPLAINED_OF_TEACHER}"]
        for objective in read_value_config(run.finished("student") / "values").objectives
    ]


def test_two_processes_fit_one_trunk(distilled: DistillRun, of_two_whole: DistillRun) -> None:
    assert min(explained(of_two_whole)) > 0.5
    alone = read_tensors(distilled.finished("student") / "values")
    fitted = read_tensors(of_two_whole.finished("student") / "values")
    assert any(not torch.equal(tensor, alone[name]) for name, tensor in fitted.items())
    trained = next((of_two_whole.stage("student").folder / "trainer").glob("checkpoint-*"))
    assert len(list(trained.glob("rng_state_*.pth"))) == 2, "both took part"


@pytest.mark.slow
def test_a_trunk_spread_over_two_processes_fits_as_a_whole_one(
    distilled: DistillRun, of_two_whole: DistillRun, tmp_path: Path
) -> None:
    """FSDP, on two processors: see `sharded_on_cpu`."""
    run = of_two(distilled, tmp_path / "run", sharded=True)
    launch = [sys.executable, "-m", LAUNCHER, "--standalone", "--nproc-per-node=2"]
    stage = ["stage", "student", str(run.run_dir.path), "--iteration", "0", "--base-folder", run.base_folder]
    subprocess.run([*launch, "-m", "tests.training.distill.sharded_on_cpu", *stage], check=True, timeout=300)
    assert explained(run) == pytest.approx(explained(of_two_whole), abs=0.02)
    trained = next((run.stage("student").folder / "trainer").glob("checkpoint-*"))
    assert (trained / "pytorch_model_fsdp.bin").is_file(), "it was spread"
    whole = read_tensors(of_two_whole.finished("student") / "values")
    fitted = read_tensors(run.finished("student") / "values")
    assert fitted.keys() == whole.keys()
    for name, tensor in fitted.items():
        torch.testing.assert_close(tensor, whole[name], atol=1e-3, rtol=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it can be")
def test_a_trunk_cannot_be_spread_over_processors(distilled: DistillRun, tmp_path: Path) -> None:
    """Would catch a fit that says nothing and gives each of its processes the whole trunk."""
    with pytest.raises(RecipeError, match=r"fit\.sharded: got true on a machine without GPUs"):
        run_stage(of_two(distilled, tmp_path / "run", sharded=True), "student")
