"""The order of a run's stages, and how each gets a process of its own.

vLLM binds threads and memory to its process for good, so a stage that samples cannot share one with a stage that fits.
`run_stages` runs in the process of the command; `run_stage` in the stage's own. Must not import torch or vllm.
"""

import importlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from training.progress import console
from training.run import Run, StageName
from training.run_dir import RunDirError

StageFunction = Callable[[Any], Mapping[str, Any]]

# By name, so that a process imports only what its own stage needs.
_FUNCTIONS: dict[StageName, str] = {
    "prompts": "training.rollouts.stage:prepare_prompts",
    "rollouts": "training.rollouts.stage:sample_rollouts",
    "rewards": "training.scoring:score_rollouts",
    "fit": "training.fit:fit_values",
    "calibrate": "training.calibrate:calibrate_scales",
    "export": "training.export:export_checkpoint",
    "positions": "training.positions:record_positions",
    "probe": "training.probe_fit:fit_probe",
    "probe_scales": "training.calibrate:calibrate_probe",
    "distilled": "training.distilled:export_distilled",
}

STAGE_NAMES: tuple[StageName, ...] = tuple(_FUNCTIONS)


def run_stages(run: Run) -> None:
    """Carry out what is not done yet, each stage in its own process.

    Raises:
        RunDirError: a stage's folder was made with other settings, or a stage failed.
    """
    for name in run.stages:
        run.stage(name).check()
    run.write()
    for name in run.stages:
        if run.stage(name).is_done:
            console.print(f"{name}: done before")
            continue
        command = [sys.executable, "-m", "training.cli", "stage", name, str(run.run_dir.path)]
        status = subprocess.run([*command, "--base-folder", run.base_folder], check=False).returncode
        if status != 0 or not run.stage(name).is_done:
            raise RunDirError(f"stage {name} failed with exit status {status}; run the same command again to go on")


def run_stage(run: Run, name: StageName) -> None:
    """Carry out one stage in this process and mark it done."""
    stage = run.stage(name)
    stage.start()
    started = time.monotonic()
    summary = _function(name)(run)
    seconds = round(time.monotonic() - started, 1)
    stage.finish({**summary, "seconds": seconds})
    console.print(f"{name}: {_in_words(summary)} ({seconds:.0f} s)")


def _function(name: StageName) -> StageFunction:
    module, function = _FUNCTIONS[name].split(":")
    found: StageFunction = getattr(importlib.import_module(module), function)
    return found


def _in_words(summary: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in summary.items() if not isinstance(value, Mapping)) or "done"
