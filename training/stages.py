"""The stages of a round: what each does, and how one is carried out in this process.

Each function imports what it needs, so that a stage's process loads no more than that. Which stages a round has, and in
what order, is `Run.own_inputs`' to say. Must not import torch or vllm at its top.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from training.distill.run import DistillRun
from training.errors import RunDirError
from training.runs.progress import console
from training.runs.run import Run, StageName

Summary = Mapping[str, Any]


def prompts(run: Run) -> Summary:
    """Read, split and render the recipe's prompts."""
    from training.prompts.stage import prepare_prompts

    return prepare_prompts(run)


def rollouts(run: Run) -> Summary:
    """Sample replies to them."""
    from training.rollouts.stage import sample_rollouts

    return sample_rollouts(run)


def rewards(run: Run) -> Summary:
    """Score every reply by every objective's reward."""
    from training.rollouts.scores import score_rollouts

    return score_rollouts(run)


def fit(run: Run) -> Summary:
    """Regress the rewards on every position of the replies."""
    from training.fit.stage import fit_values

    return fit_values(run)


def calibrate(run: Run) -> Summary:
    """Find the scales at which weight 1 costs what it should."""
    from training.calibrate.stage import calibrate_scales

    return calibrate_scales(run)


def export(run: Run) -> Summary:
    """Write the checkpoint."""
    from training.fit.checkpoint import export_checkpoint

    return export_checkpoint(run)


def positions(run: DistillRun) -> Summary:
    """Sample replies through the exact guide, and record what it saw."""
    from training.distill.record import record_positions

    return record_positions(run)


def probe(run: DistillRun) -> Summary:
    """Fit the probe to the exact values."""
    from training.distill.fit import fit_probe

    return fit_probe(run)


def probe_scales(run: DistillRun) -> Summary:
    """Find the scales of fast scoring."""
    from training.distill.calibrate import calibrate_probe

    return calibrate_probe(run)


def distilled(run: DistillRun) -> Summary:
    """Write the checkpoint with its probe."""
    from training.distill.checkpoint import export_distilled

    return export_distilled(run)


STAGES: Mapping[StageName, Callable[[Any], Summary]] = {
    "prompts": prompts,
    "rollouts": rollouts,
    "rewards": rewards,
    "fit": fit,
    "calibrate": calibrate,
    "export": export,
    "positions": positions,
    "probe": probe,
    "probe_scales": probe_scales,
    "distilled": distilled,
}


def stage_name(name: str) -> StageName:
    """A stage's name as the command line gave it.

    Raises:
        RunDirError: there is no such stage.
    """
    for known in STAGES:
        if known == name:
            return known
    raise RunDirError(f"stage: got {name!r}, allowed is one of {', '.join(STAGES)}")


def run_stage(run: Run, name: StageName) -> None:
    """Carry out one stage in this process and mark it done."""
    stage = run.stage(name)
    stage.start()
    started = time.monotonic()
    summary = STAGES[name](run)
    seconds = round(time.monotonic() - started, 1)
    stage.finish({**summary, "seconds": seconds})
    console.print(f"{name}: {_in_words(summary)} ({seconds:.0f} s)")


def _in_words(summary: Summary) -> str:
    return ", ".join(f"{key} {value}" for key, value in summary.items() if not isinstance(value, Mapping)) or "done"
