"""The command: what was found, and what a run should take. torch is imported once there is something to estimate."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from training.check.check import Checked, check_recipe
from training.errors import RecipeError
from training.recipe import Recipe
from training.recipe_file import read_recipe
from training.runs.command import errors_in_one_sentence
from training.runs.progress import console

_GIB = 2**30


def check(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or the path of a YAML file.")],
    run_dir: Annotated[Path | None, typer.Option(help="Where the run's files would go.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="As `run` would be given it.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="As `run` would be given it.")] = None,
    base_folder: Annotated[Path | None, typer.Option(help="As `run` would be given it.")] = None,
) -> None:
    """Check a recipe without carrying it out or fetching anything, and estimate time, memory and disk."""
    with errors_in_one_sentence():
        settings = read_recipe(recipe).changed(limit=limit, iterations=iterations)
        checked = check_recipe(settings, base_folder)
        for finding in checked.findings:
            mark = "[red]wrong[/red]" if finding.problem else "ok"
            console.print(f"{mark}  {finding.what}: ", end="")
            console.print(finding.found, markup=False, soft_wrap=True)
        if checked.problems:
            raise RecipeError(f"{recipe}: {checked.problems} of {len(checked.findings)} things are wrong, see above")
        if checked.base is None or checked.trunk is None or checked.prompts is None:
            missing = "base, trunk and prompts are not all here, so time, memory and disk cannot be estimated"
            console.print(missing, soft_wrap=True)
        else:
            _print_estimate(settings, checked, run_dir or Path("runs") / settings.name)


def _print_estimate(recipe: Recipe, checked: Checked, run_dir: Path) -> None:
    from training.check.estimate import estimate
    from training.check.machine import this_machine
    from training.check.sizes import sizes_of

    assert checked.base and checked.trunk and checked.prompts, "checked before"
    sizes, machine = sizes_of(checked.base, checked.trunk, recipe.backbone), this_machine(run_dir)
    found = estimate(recipe, checked.prompts, sizes, machine)
    table = Table("stage", "work", "minutes, about")
    for stage in found.stages:
        table.add_row(stage.name, stage.work, f"{stage.seconds / 60:.0f}")
    console.print(table)
    console.print(
        f"about {found.seconds / 60:.0f} minutes in all on {machine.name} at {machine.flops / 1e9:.0f} GFLOP/s, "
        "within a factor of two; the time that rewards take is not in it",
        soft_wrap=True,
    )
    console.print(
        f"base {sizes.base / 1e6:.0f} M parameters, trunk's layers {sizes.trunk / 1e6:.0f} M, "
        f"adapter {sizes.adapter / 1e6:.1f} M; "
        f"memory {found.memory / _GIB:.1f} GiB (free: {machine.memory / _GIB:.1f}), "
        f"disk {found.disk / _GIB:.2f} GiB (free: {machine.disk / _GIB:.1f})",
        soft_wrap=True,
    )
    for what, needed, free in (("memory", found.memory, machine.memory), ("disk", found.disk, machine.disk)):
        if needed > free:
            raise RecipeError(f"{needed / _GIB:.1f} GiB of {what} are needed, {free / _GIB:.1f} are free")
