"""`mavis train`: carry out a training recipe, make the probe of fast scoring, or make a reward of preference pairs.

    mavis train run RECIPE [--run-dir runs/NAME] [--limit N] [--iterations N] [--export DIR]
    mavis train distill CHECKPOINT... [--recipe RECIPE]
    mavis train slider REWARD --from RUN_DIR --name NAME --description TEXT
    mavis train reward PAIRS RUN_DIR [--base BASE] [--layers N]
    mavis train check RECIPE
    mavis train ablate RECIPE --vary KEY=VALUE,VALUE
    mavis train fast [CHECKPOINT] [--recipe RECIPE] [--run-dir runs/fast-NAME] [--limit N] [--judge] [--export DIR]

Runs in the process of the command; the stages get processes of their own. Must not import torch or vllm at the top.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from training.ablate.command import ablate
from training.check.command import check
from training.distill.run import distill_run
from training.errors import RecipeError, RunDirError
from training.experts.command import make_expert
from training.fast.run import FastRun
from training.opening import one_more_slider, open_any_run
from training.pairs.command import make_reward_model
from training.recipe import Recipe
from training.recipe_file import parse_objective, read_recipe
from training.report import copy_checkpoint, print_probe, print_summary
from training.rounds import carry_out
from training.runs.base import find_base
from training.runs.command import errors_in_one_sentence
from training.runs.progress import console
from training.runs.run import Run
from training.runs.run_dir import RunDir
from training.runs.teacher import Teacher, read_teacher
from training.stages import STAGES, run_stage, stage_name
from valuemodels.sources.values import resolve_values

app = typer.Typer(
    help="Train value models.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first N prompts of each split.")]
Export = Annotated[Path | None, typer.Option(help="Copy the finished checkpoint to this folder.")]
Workers = Annotated[
    int, typer.Option(min=0, help="Sample, and of `run` score, by N workers over a Ray cluster; 0: in one process.")
]
BaseFolder = Annotated[
    Path | None, typer.Option(help="Where the recipe's base model lies, if not where it is looked for.")
]


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or the path of a YAML file.")],
    run_dir: Annotated[Path | None, typer.Option(help="Where the run's files go; runs/<recipe> if not given.")] = None,
    limit: Limit = None,
    iterations: Annotated[
        int | None,
        typer.Option(min=1, help="Rounds: each later one samples from the tilted policy of the best before it."),
    ] = None,
    export: Export = None,
    workers: Workers = 0,
    base_folder: BaseFolder = None,
) -> None:
    """Sample, score, fit, calibrate and export; what an earlier run finished is not done again."""
    with errors_in_one_sentence():
        settings = read_recipe(recipe).changed(limit=limit, iterations=iterations)
        path = run_dir or Path("runs") / settings.name
        training = Run(settings, RunDir(path), find_base(settings, base_folder), workers=workers)
        carry_out(training)
        print_summary(training)
        if export is not None:
            copy_checkpoint(training, export)


@app.command()
def fast(
    checkpoint: Annotated[
        str | None,
        typer.Argument(help="Folder or hub id of an exact checkpoint; none makes a probe alone, from rewards alone."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Name or path of a recipe; the one the checkpoint was trained by if not given.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run's files go; runs/fast-<recipe> if not given.")
    ] = None,
    limit: Limit = None,
    judge: Annotated[
        bool, typer.Option("--judge", help="Say of every round what it gains, on held-out prompts; keep the best.")
    ] = False,
    export: Export = None,
    workers: Workers = 0,
    base_folder: BaseFolder = None,
) -> None:
    """Make a probe, for fast scoring: sample, score, label, fit, round by round; calibrate. Resumes as `run` does."""
    with errors_in_one_sentence():
        teacher = None if checkpoint is None else read_teacher(resolve_values(checkpoint))
        if teacher is not None and teacher.had_probe:
            console.print(f"{checkpoint} has a probe already: it is replaced by a new one", soft_wrap=True)
        settings = _recipe_for(teacher, recipe).changed(limit=limit)
        if judge:
            settings = settings.changed(judge=settings.judging)
        path = run_dir or Path("runs") / f"fast-{settings.name}"
        base = find_base(settings, base_folder)
        making = FastRun(settings, RunDir(path), base, workers=workers, teacher=teacher)
        carry_out(making)
        print_probe(making)
        if export is not None:
            copy_checkpoint(making, export)


@app.command()
def distill(
    checkpoints: Annotated[list[str], typer.Argument(help="Folders or hub ids of exact checkpoints.")],
    recipe: Annotated[
        str, typer.Option(help="Name or path of a recipe: its prompts, trunk and fit; its objectives do not count.")
    ] = "embedded",
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run's files go; runs/distill-<recipe> if not given.")
    ] = None,
    limit: Limit = None,
    export: Export = None,
    workers: Workers = 0,
    base_folder: BaseFolder = None,
) -> None:
    """Make one checkpoint of several: a trunk with a head for each objective, regressed on their exact values."""
    with errors_in_one_sentence():
        settings = read_recipe(recipe).changed(limit=limit)
        path = run_dir or Path("runs") / f"distill-{settings.name}"
        folders = [resolve_values(checkpoint) for checkpoint in checkpoints]
        making = replace(distill_run(settings, folders, path, base_folder), workers=workers)
        carry_out(making)
        print_summary(making, explained="explained_variance_of_teacher")
        if export is not None:
            copy_checkpoint(making, export)


@app.command()
def slider(
    reward: Annotated[
        str, typer.Argument(help="A reward's id, or module:Class, or module:function; parameters follow as JSON.")
    ],
    replies_of: Annotated[
        Path,
        typer.Option("--from", help="The folder of a `mavis train run` or `fast`, whose replies are used."),
    ],
    name: Annotated[str, typer.Option(help="The objective's name.")],
    description: Annotated[str, typer.Option(help="What it means, one sentence.")],
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run's files go; runs/slider-<name> if not given.")
    ] = None,
    export: Export = None,
    base_folder: BaseFolder = None,
) -> None:
    """Make one more objective in minutes: score replies that are there, fit a head or a probe to them, calibrate it."""
    with errors_in_one_sentence():
        objective = parse_objective(name, description, reward)
        path = run_dir or Path("runs") / f"slider-{name}"
        making = one_more_slider(replies_of, objective, path, base_folder)
        carry_out(making)
        if isinstance(making, FastRun):
            print_probe(making)
        else:
            print_summary(making)
        if export is not None:
            copy_checkpoint(making, export)


app.command("reward")(make_reward_model)
app.command("check")(check)
app.command("expert")(make_expert)
app.command("ablate")(ablate)


@app.command("stage")
def carry_out_stage(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STAGES)}.")],
    run_dir: Annotated[Path, typer.Argument(help="The run's folder.")],
    iteration: Annotated[int, typer.Option(min=0, help="Which of the run's rounds.")] = 0,
    workers: Workers = 0,
    base_folder: BaseFolder = None,
) -> None:
    """Carry out one stage of a run that another command has begun."""
    with errors_in_one_sentence():
        stage = stage_name(name)
        begun = open_any_run(run_dir, base_folder)
        iterations = replace(begun, workers=workers).iterations
        if iteration >= len(iterations):
            raise RunDirError(f"iteration: got {iteration}, allowed is 0 to {len(iterations) - 1}")
        run_stage(iterations[iteration], stage)


def _recipe_for(teacher: Teacher | None, asked: str | None) -> Recipe:
    if asked is not None:
        return read_recipe(asked)
    if teacher is None:
        raise RecipeError("without a checkpoint, --recipe says what to train on: give one of them")
    try:
        return read_recipe(teacher.config.training.recipe)
    except RecipeError as error:
        raise RecipeError(f"{error}; or give --recipe") from None


if __name__ == "__main__":
    app()
