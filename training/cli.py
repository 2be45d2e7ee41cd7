"""`mavis train`: carry out a training recipe, or distil a trained checkpoint.

    mavis train run RECIPE [--run-dir runs/NAME] [--limit N] [--export DIR]
    mavis train distill CHECKPOINT [--recipe RECIPE] [--run-dir runs/distill-NAME] [--limit N] [--export DIR]

Runs in the process of the command; the stages get processes of their own. Must not import torch or vllm at the top.
"""

from pathlib import Path
from typing import Annotated

import typer

from training.distill_run import DistillRun, Teacher, open_distillation, read_teacher
from training.errors import EXPECTED_ERRORS, fail
from training.progress import console
from training.recipe import Recipe, RecipeError, read_recipe
from training.run import Run, find_base, open_run
from training.run_dir import RunDir, RunDirError
from training.stages import STAGE_NAMES, run_stage, run_stages
from training.summary import copy_checkpoint, print_distillation, print_summary
from valuemodels.sources.hub import resolve_folder

app = typer.Typer(
    help="Train value models.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first N prompts of each split.")]
Export = Annotated[Path | None, typer.Option(help="Copy the finished checkpoint to this folder.")]
BaseFolder = Annotated[
    Path | None, typer.Option(help="Where the recipe's base model lies, if not where it is looked for.")
]


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or the path of a YAML file.")],
    run_dir: Annotated[Path | None, typer.Option(help="Where the run's files go; runs/<recipe> if not given.")] = None,
    limit: Limit = None,
    export: Export = None,
    base_folder: BaseFolder = None,
) -> None:
    """Sample, score, fit, calibrate and export; what an earlier run finished is not done again."""
    try:
        settings = read_recipe(recipe).model_copy(update={"limit": limit})
        path = run_dir or Path("runs") / settings.name
        training = Run(settings, RunDir(path), find_base(settings, base_folder))
        run_stages(training)
        print_summary(training)
        if export is not None:
            copy_checkpoint(training, "export", export)
    except EXPECTED_ERRORS as error:
        fail(error)


@app.command()
def distill(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id of a value checkpoint.")],
    recipe: Annotated[
        str | None, typer.Option(help="Name or path of a recipe; the one the checkpoint was trained by if not given.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run's files go; runs/distill-<recipe> if not given.")
    ] = None,
    limit: Limit = None,
    export: Export = None,
    base_folder: BaseFolder = None,
) -> None:
    """Give a checkpoint a probe, for fast scoring: sample, fit, calibrate; resumes as `run` does."""
    try:
        teacher = read_teacher(resolve_folder(checkpoint))
        if teacher.had_probe:
            console.print(f"{checkpoint} has a probe already: it is replaced by a new one", soft_wrap=True)
        settings = _recipe_for(teacher, recipe).model_copy(update={"limit": limit})
        path = run_dir or Path("runs") / f"distill-{settings.name}"
        distillation = DistillRun(settings, RunDir(path), find_base(settings, base_folder), teacher=teacher)
        run_stages(distillation)
        print_distillation(distillation)
        if export is not None:
            copy_checkpoint(distillation, "distilled", export)
    except EXPECTED_ERRORS as error:
        fail(error)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STAGE_NAMES)}.")],
    run_dir: Annotated[Path, typer.Argument(help="The run's folder.")],
    base_folder: BaseFolder = None,
) -> None:
    """Carry out one stage of a run that `run` or `distill` has begun."""
    try:
        if name not in STAGE_NAMES:
            raise RunDirError(f"stage: got {name!r}, allowed is one of {', '.join(STAGE_NAMES)}")
        is_distillation = RunDir(run_dir).teacher_path.is_file()
        run_stage((open_distillation if is_distillation else open_run)(run_dir, base_folder), name)
    except EXPECTED_ERRORS as error:
        fail(error)


def _recipe_for(teacher: Teacher, asked: str | None) -> Recipe:
    if asked is not None:
        return read_recipe(asked)
    try:
        return read_recipe(teacher.config.training.recipe)
    except RecipeError as error:
        raise RecipeError(f"{error}; or give --recipe") from None


if __name__ == "__main__":
    app()
