"""`mavis train`: carry out a training recipe.

    mavis train run RECIPE [--run-dir runs/NAME] [--limit N] [--export DIR]

Runs in the process of the command; the stages get processes of their own. Must not import torch or vllm at the top.
"""

from pathlib import Path
from typing import Annotated

import typer

from training.expected_errors import EXPECTED_ERRORS, fail
from training.recipe import read_recipe
from training.run import STAGE_NAMES, Run, find_base, open_run
from training.run_dir import RunDir, RunDirError
from training.stages import run_stage, run_stages
from training.summary import copy_checkpoint, print_summary

app = typer.Typer(
    help="Train value models.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

BaseFolder = Annotated[
    Path | None, typer.Option(help="Where the recipe's base model lies, if not where it is looked for.")
]


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or the path of a YAML file.")],
    run_dir: Annotated[Path | None, typer.Option(help="Where the run's files go; runs/<recipe> if not given.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N prompts of each split.")] = None,
    export: Annotated[Path | None, typer.Option(help="Copy the finished checkpoint to this folder.")] = None,
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
            copy_checkpoint(training, export)
    except EXPECTED_ERRORS as error:
        fail(error)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STAGE_NAMES)}.")],
    run_dir: Annotated[Path, typer.Argument(help="The run's folder.")],
    base_folder: BaseFolder = None,
) -> None:
    """Carry out one stage of a run that `run` has begun."""
    try:
        if name not in STAGE_NAMES:
            raise RunDirError(f"stage: got {name!r}, allowed is one of {', '.join(STAGE_NAMES)}")
        run_stage(open_run(run_dir, base_folder), name)
    except EXPECTED_ERRORS as error:
        fail(error)


if __name__ == "__main__":
    app()
