"""The rounds of a run: their stages in their order, each in a process of its own.

    training   prompts -> rollouts -> rewards -> fit -> calibrate -> export
    a probe    prompts -> invented -> replies -> reply_rewards -> lookahead, or labels of a teacher -> probe
               once more for each round of tilted replies: replies -> reply_rewards -> lookahead -> probe
               and after the last one: probe_scales -> probe_export

vLLM binds threads and memory to its process for good, so a stage that samples cannot share one with a stage that fits.
Runs in the process of the command. Must not import torch or vllm.
"""

import subprocess
import sys

from training.errors import RunDirError
from training.runs.progress import console
from training.runs.ranks import LAUNCHER
from training.runs.run import Run, StageName

SHARED_FITS: tuple[StageName, ...] = ("fit", "student")
"""The stages that several processes can carry out together."""


def carry_out(run: Run) -> None:
    """Carry out every stage of every iteration that is not done yet.

    Raises:
        RunDirError: a stage's folder was made with other settings, or a stage failed.
    """
    plan = [(iteration, name) for iteration in run.iterations for name in iteration.stages]
    for iteration, name in plan:
        iteration.stage(name).check()
    run.write()
    for iteration, name in plan:
        if iteration.stage(name).is_done:
            console.print(f"{title(iteration, name)}: done before")
        else:
            carry_out_in_own_process(iteration, name)


def title(run: Run, name: StageName) -> str:
    """A stage as people are told of it."""
    return f"{name}, round {run.iteration}" if len(run.iterations) > 1 else name


def _launcher(run: Run, name: StageName) -> list[str]:
    """What starts the processes of a stage that has several."""
    processes = run.recipe.fit.processes
    if processes == 1 or name not in SHARED_FITS:
        return []
    return ["-m", LAUNCHER, "--standalone", f"--nproc-per-node={processes}"]


def carry_out_in_own_process(run: Run, name: StageName) -> None:
    """Carry out one stage in a process of its own, or in several where its fit has them.

    Raises:
        RunDirError: it failed.
    """
    command = [sys.executable, *_launcher(run, name), "-m", "training.cli", "stage", name, str(run.run_dir.path)]
    command += ["--iteration", str(run.iteration), "--base-folder", run.base_folder, "--workers", str(run.workers)]
    status = subprocess.run(command, check=False).returncode
    if status != 0 or not run.stage(name).is_done:
        raise RunDirError(f"stage {name} failed with exit status {status}; run the same command again to go on")
