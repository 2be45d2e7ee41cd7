"""`mavis train`: carry out a training recipe, or distil a trained checkpoint.

    mavis train run RECIPE [--run-dir runs/NAME] [--limit N] [--export DIR]
    mavis train distill CHECKPOINT [--recipe RECIPE] [--run-dir runs/distill-NAME] [--limit N] [--export DIR]

Runs in the process of the command; the stages get processes of their own. Must not import torch or vllm at the top.
"""

from pathlib import Path
from typing import Annotated

import typer

from training.distill.run import DistillRun, Teacher, open_distillation, read_teacher
from training.errors import RecipeError
from training.recipe import Recipe
from training.recipe_file import read_recipe
from training.report import copy_checkpoint, print_distillation, print_summary
from training.rounds import run_round
from training.runs.command import errors_in_one_sentence
from training.runs.progress import console
from training.runs.run import Run, find_base, open_run
from training.runs.run_dir import RunDir
from training.stages import STAGES, run_stage, stage_name
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
    with errors_in_one_sentence():
        settings = _limited(read_recipe(recipe), limit)
        path = run_dir or Path("runs") / settings.name
        training = Run(settings, RunDir(path), find_base(settings, base_folder))
        run_round(training)
        print_summary(training)
        if export is not None:
            copy_checkpoint(training, "export", export)


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
    with errors_in_one_sentence():
        teacher = read_teacher(resolve_folder(checkpoint))
        if teacher.had_probe:
            console.print(f"{checkpoint} has a probe already: it is replaced by a new one", soft_wrap=True)
        settings = _limited(_recipe_for(teacher, recipe), limit)
        path = run_dir or Path("runs") / f"distill-{settings.name}"
        distillation = DistillRun(settings, RunDir(path), find_base(settings, base_folder), teacher=teacher)
        run_round(distillation)
        print_distillation(distillation)
        if export is not None:
            copy_checkpoint(distillation, "distilled", export)


@app.command("stage")
def carry_out_stage(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STAGES)}.")],
    run_dir: Annotated[Path, typer.Argument(help="The run's folder.")],
    base_folder: BaseFolder = None,
) -> None:
    """Carry out one stage of a run that `run` or `distill` has begun."""
    with errors_in_one_sentence():
        stage = stage_name(name)
        is_distillation = RunDir(run_dir).teacher_path.is_file()
        run_stage((open_distillation if is_distillation else open_run)(run_dir, base_folder), stage)


def _limited(recipe: Recipe, limit: int | None) -> Recipe:
    """The recipe with the command line's limit, where that gives one."""
    return recipe if limit is None else recipe.model_copy(update={"limit": limit})


def _recipe_for(teacher: Teacher, asked: str | None) -> Recipe:
    if asked is not None:
        return read_recipe(asked)
    try:
        return read_recipe(teacher.config.training.recipe)
    except RecipeError as error:
        raise RecipeError(f"{error}; or give --recipe") from None


if __name__ == "__main__":
    app()
