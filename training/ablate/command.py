"""`mavis train ablate`: what a recipe's keys do to its values, by fits to the same replies.

    mavis train ablate RECIPE --vary backbone.layers=2,4,8 --vary fit.replies=2,4 [--limit N] [--out FILE.json]

Runs in the process of the command; the stages get processes of their own. Must not import torch or vllm at the top.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from training.errors import RecipeError
from training.evaluate.checkpoint import BaseFolderOption, OutOption, write_report
from training.fit.variant import VariantRun, variant_run, varied
from training.recipe import Recipe
from training.recipe_file import read_recipe
from training.rounds import carry_out
from training.runs.command import errors_in_one_sentence
from training.runs.progress import console
from training.runs.run_dir import RunDir
from training.statistics.bootstrap import Estimate

AS_IT_IS = "as it is"
_MEAN = "mean"


def ablate(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or the path of a YAML file.")],
    vary: Annotated[
        list[str],
        typer.Option(help="KEY=VALUE,VALUE,…: a fit for each value, all else as it is; KEY of backbone, head or fit."),
    ],
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run's files go; runs/ablate-<recipe> if not given.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N prompts of each split.")] = None,
    out: OutOption = None,
    base_folder: BaseFolderOption = None,
) -> None:
    """Fit values to the same replies otherwise, a key at a time; say how much of held-out rewards they explain."""
    with errors_in_one_sentence():
        settings = read_recipe(recipe).changed(limit=limit)
        variants = {name: varied(settings, key, value) for name, key, value in _asked(vary)}
        folder = run_dir or Path("runs") / f"ablate-{settings.name}"
        runs = _runs(settings, variants, folder, base_folder)
        for name, run in runs.items():
            console.print(f"[bold]{name}[/bold]")
            carry_out(run)
        rows = _rows(runs)
        _print(rows)
        replies = runs[AS_IT_IS].stage("fit").summary()["replies"]
        write_report(out, {"recipe": settings.name, "limit": limit, "replies": replies, "rows": rows})


def _asked(vary: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(name, key, value) of every variant, each once.

    Raises:
        RecipeError: one is not of the form KEY=VALUE,VALUE.
    """
    for text in dict.fromkeys(vary):
        key, _, values = text.partition("=")
        if not all((key, *values.split(","))):
            raise RecipeError(f"vary: got {text!r}, allowed is KEY=VALUE,VALUE, as backbone.layers=2,4")
        for value in values.split(","):
            yield f"{key}={value}", key, value


def _runs(
    settings: Recipe, variants: Mapping[str, Recipe], folder: Path, base_folder: Path | None
) -> dict[str, VariantRun]:
    """The recipe as it is, which samples for all, and then the variants."""
    first = variant_run(settings, folder / AS_IT_IS.replace(" ", "-"), None, base_folder)
    lent = RunDir(first.run_dir.path)
    others = {
        name: variant_run(recipe, folder / name.replace("/", "-"), lent, base_folder)
        for name, recipe in variants.items()
    }
    return {AS_IT_IS: first, **others}


def _rows(runs: Mapping[str, VariantRun]) -> list[dict[str, Any]]:
    from training.ablate.held_out import estimates, held_out_squares

    squares = {name: held_out_squares(run) for name, run in runs.items()}
    rows = []
    for name, run in runs.items():
        columns = (*run.rewards, _MEAN)
        explained = dict(zip(columns, map(asdict, estimates(squares[name])), strict=True))
        ahead = dict(zip(columns, map(asdict, estimates(squares[name], squares[AS_IT_IS])), strict=True))
        sizes = {"prompts": len(squares[name].errors), "fit_seconds": run.stage("fit").summary()["seconds"]}
        rows.append({"variant": name, **sizes, "explained": explained, "ahead": None if name == AS_IT_IS else ahead})
    return rows


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    names = [name for name in rows[0]["explained"] if name != _MEAN]
    table = Table("", *names, _MEAN, "ahead", "fit, s", title="Variance explained among replies to one prompt")
    for row in rows:
        ahead = "" if row["ahead"] is None else f"{Estimate(**row['ahead'][_MEAN])}"
        shares = [f"{row['explained'][name]['value']:.2f}" for name in names]
        mean = f"{Estimate(**row['explained'][_MEAN])}"
        table.add_row(row["variant"], *shares, mean, ahead, f"{row['fit_seconds']:.0f}")
    console.print(table)
