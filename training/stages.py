"""The stages of a round: what each does, and how one is carried out in this process.

Each function imports what it needs, so that a stage's process loads no more than that. Which stages a round has, and in
what order, is `Run.own_inputs`' to say. Must not import torch or vllm at its top.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from training.distill.run import DistillRun
from training.errors import RunDirError
from training.fast.run import FastRun
from training.head.run import HeadRun
from training.runs.progress import console
from training.runs.ranks import is_first
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


def judge(run: Run) -> Summary:
    """Say what the round is worth, on held-out prompts, and whether it is kept."""
    from training.judge.stage import judge_round

    return judge_round(run)


def teacher_values(run: DistillRun) -> Summary:
    """Value every position of the replies by every teacher."""
    from training.distill.teacher_values import value_replies

    return value_replies(run)


def student(run: DistillRun) -> Summary:
    """Regress one trunk on those values."""
    from training.distill.student import fit_student

    return fit_student(run)


def head(run: HeadRun) -> Summary:
    """Fit one more objective's head on a finished trunk."""
    from training.head.fit import fit_head

    return fit_head(run)


def slider_export(run: HeadRun) -> Summary:
    """Write the checkpoint with one more objective."""
    from training.head.checkpoint import export_with_head

    return export_with_head(run)


def export(run: Run) -> Summary:
    """Write the checkpoint."""
    from training.fit.checkpoint import export_checkpoint

    return export_checkpoint(run)


def invented(run: FastRun) -> Summary:
    """Have the base invent more prompts."""
    from training.fast.invented import invent_prompts

    return invent_prompts(run)


def replies(run: FastRun) -> Summary:
    """Sample a round's replies, and record what the guide saw."""
    from training.fast.replies import sample_replies

    return sample_replies(run)


def reply_rewards(run: FastRun) -> Summary:
    """Score them and all of their prefixes."""
    from training.fast.reply_rewards import score_replies

    return score_replies(run)


def lookahead(run: FastRun) -> Summary:
    """Score what candidates would make of the replies."""
    from training.fast.lookahead import look_ahead

    return look_ahead(run)


def labels(run: FastRun) -> Summary:
    """Label some of their positions with exact values."""
    from training.fast.labels import label_positions

    return label_positions(run)


def probe(run: FastRun) -> Summary:
    """Fit the probe to the labels and the rewards."""
    from training.fast.fit import fit_probe

    return fit_probe(run)


def probe_scales(run: FastRun) -> Summary:
    """Find the scales of fast scoring."""
    from training.fast.scales import calibrate_probe

    return calibrate_probe(run)


def probe_export(run: FastRun) -> Summary:
    """Write the checkpoint with its probe."""
    from training.fast.checkpoint import export_probe

    return export_probe(run)


STAGES: Mapping[StageName, Callable[[Any], Summary]] = {
    "prompts": prompts,
    "rollouts": rollouts,
    "rewards": rewards,
    "fit": fit,
    "calibrate": calibrate,
    "judge": judge,
    "export": export,
    "teacher_values": teacher_values,
    "student": student,
    "head": head,
    "slider_export": slider_export,
    "invented": invented,
    "replies": replies,
    "reply_rewards": reply_rewards,
    "lookahead": lookahead,
    "labels": labels,
    "probe": probe,
    "probe_scales": probe_scales,
    "probe_export": probe_export,
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
    """Carry out one stage in this process and mark it done; of several processes the first one does."""
    stage = run.stage(name)
    if not is_first():
        STAGES[name](run)
        return
    stage.start()
    started = time.monotonic()
    summary = STAGES[name](run)
    seconds = round(time.monotonic() - started, 1)
    stage.finish({**summary, "seconds": seconds})
    console.print(f"{name}: {_in_words(summary)} ({seconds:.0f} s)")


def _in_words(summary: Summary) -> str:
    return ", ".join(f"{key} {value}" for key, value in summary.items() if not isinstance(value, Mapping)) or "done"
