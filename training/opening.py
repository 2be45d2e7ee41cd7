"""A run's folder opened as what it is.

Runs in any training process. Must not import torch or vllm.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from training.distill.run import DistillRun, open_distill_run
from training.errors import RunDirError
from training.fast.run import FastRun, open_fast_run, slider_run
from training.fit.variant import VariantRun, open_variant_run
from training.head.run import HeadRun, head_run, open_head_run
from training.recipe import ObjectiveRecipe
from training.runs.opened import open_run
from training.runs.run import Run
from training.runs.run_dir import RunDir

_OPEN: Mapping[str, Callable[[Path, Path | None], Run]] = {
    Run.kind: open_run,
    FastRun.kind: open_fast_run,
    DistillRun.kind: open_distill_run,
    HeadRun.kind: open_head_run,
    VariantRun.kind: open_variant_run,
}


def open_any_run(path: Path, base_folder: Path | None = None) -> Run:
    """The run in a folder, whatever is made there.

    Raises:
        RunDirError: there is none.
        RecipeError, CheckpointError: its recipe has been tampered with, what it was made of is no longer there.
    """
    return _OPEN[RunDir(path).kind()[0]](path, base_folder)


def one_more_slider(
    replies_of: Path, objective: ObjectiveRecipe, run_dir: Path, base_folder: Path | None = None
) -> FastRun | HeadRun:
    """The making of one more objective from replies that are there: a probe of them, or a head on their run's trunk.

    Raises:
        RunDirError: there are none, or they have the objective already.
    """
    kind = RunDir(replies_of).kind()[0]
    if kind == FastRun.kind:
        return slider_run(replies_of, objective, run_dir, base_folder)
    if kind == Run.kind:
        return head_run(replies_of, objective, run_dir, base_folder)
    raise RunDirError(
        f"from: got {replies_of}, a run of kind {kind}; allowed is the folder of a `mavis train run` or `fast`"
    )
