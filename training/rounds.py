"""One round of a run: its stages in their order, each in a process of its own.

    training       prompts -> rollouts -> rewards -> fit -> calibrate -> export
    distillation   prompts -> positions -> probe -> probe_scales -> distilled

vLLM binds threads and memory to its process for good, so a stage that samples cannot share one with a stage that fits.
Runs in the process of the command. Must not import torch or vllm.
"""

import subprocess
import sys

from training.errors import RunDirError
from training.runs.progress import console
from training.runs.run import Run, StageName


def run_round(run: Run) -> None:
    """Carry out every stage that is not done yet.

    Raises:
        RunDirError: a stage's folder was made with other settings, or a stage failed.
    """
    for name in run.stages:
        run.stage(name).check()
    run.write()
    for name in run.stages:
        if run.stage(name).is_done:
            console.print(f"{name}: done before")
        else:
            _run_in_own_process(run, name)


def _run_in_own_process(run: Run, name: StageName) -> None:
    command = [sys.executable, "-m", "training.cli", "stage", name, str(run.run_dir.path)]
    status = subprocess.run([*command, "--base-folder", run.base_folder], check=False).returncode
    if status != 0 or not run.stage(name).is_done:
        raise RunDirError(f"stage {name} failed with exit status {status}; run the same command again to go on")
