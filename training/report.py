"""What a finished run says at its end: where its results lie and how good they are.

Runs in the process of `mavis train`. Must not import torch or vllm.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Column, Table

from training.fast.run import FastRun
from training.runs.progress import console
from training.runs.run import Run
from training.statistics.bootstrap import Estimate
from valuemodels.contract.value_config import read_value_config
from valuemodels.sources.folders import replacing_folder


def _name(title: str) -> Column:
    """A column that a narrow terminal does not cut."""
    return Column(title, no_wrap=True)


def print_summary(run: Run, explained: str = "explained_variance") -> None:
    """Print the finished checkpoint's figures and the time each stage took.

    Args:
        explained: what the checkpoint calls the share of the targets' variance that its values explain.
    """
    last, folder = run.at(run.last), run.checkpoint
    trials = last.best.stage("calibrate").summary()["trials"]
    config = read_value_config(folder)
    table = Table(
        _name("objective"), "base mean", "base std", "explained, test", "at 16", "at end", "scale", "KL, nats"
    )
    for objective in config.objectives:
        metrics = objective.metrics
        table.add_row(
            objective.name,
            f"{objective.mean:.3f}",
            f"{objective.std:.3f}",
            *(f"{metrics.get(f'test_{explained}{at}', float('nan')):.2f}" for at in ("", "_at_16", "_at_end")),
            f"{objective.scale or 0:.3g}",
            f"{_cost(trials[objective.name], objective.scale or 0):.2f}" if objective.name in trials else "-",
        )
    console.print(table)
    print_curve(last)
    _print_times(run, folder)


def print_curve(run: Run) -> None:
    """Print what every judged round is worth; nothing where none were judged."""
    if not run.is_judged:
        return
    verdicts = [each.stage("judge").summary() for each in run.iterations]
    table = Table("round", *verdicts[0]["verdict"]["gains"], r"E\[r] - zeta KL", "over round 0", "kept")
    for number, summary in enumerate(verdicts):
        verdict = summary["verdict"]
        gains = [str(Estimate(**gain)) for gain in verdict["gains"].values()]
        over = str(Estimate(**verdict["over_first"])) if number else "-"
        table.add_row(str(number), *gains, str(Estimate(**verdict["worth"])), over, "yes" if summary["kept"] else "no")
    console.print(table)
    target, prompts = run.recipe.calibrate.target_kl, verdicts[0]["prompts"]
    console.print(
        f"gains over the base at {target:g} nats a reply, in its standard deviations, on {prompts} held-out prompts; "
        f"95% intervals over prompts; round {run.at(run.last).best.iteration} is exported",
        soft_wrap=True,
    )


def print_probe(run: FastRun) -> None:
    """Print what each round's probe should gain, what its tilts cost, and the time each stage took."""
    last, folder = run.at(run.last), run.checkpoint
    trials = last.best.stage("probe_scales").summary()["trials"]
    config = read_value_config(folder)
    assert config.probe is not None, folder
    rounds = [f"gain, round {iteration.iteration}" for iteration in run.iterations]
    table = Table(_name("objective"), *rounds, "explained", "exact scale", "scale", "KL, nats")
    for objective in config.objectives:
        metrics, scale = config.probe.metrics[objective.name], config.probe.scales[objective.name]
        gains = [each.stage("probe").summary()["metrics"][objective.name]["validation_gain"] for each in run.iterations]
        table.add_row(
            objective.name,
            *(f"{gain:.2f}" for gain in gains),
            f"{metrics['validation_explained_variance']:.2f}" if "validation_explained_variance" in metrics else "-",
            "-" if objective.scale is None else f"{objective.scale:.3g}",
            f"{scale:.3g}",
            f"{_cost(trials[objective.name], scale):.2f}",
        )
    console.print(table)
    console.print("gain: first-order, on validation replies of the base, in standard deviations of the base's reward")
    print_curve(last)
    _print_times(run, folder)


def copy_checkpoint(run: Run, target: Path) -> None:
    """Put a copy of a run's finished checkpoint in `target`'s place, whole or not at all."""
    with replacing_folder(target) as partial:
        shutil.copytree(run.checkpoint, partial, dirs_exist_ok=True)
    console.print(f"copied to {target}", soft_wrap=True)


def _cost(trials: Sequence[Mapping[str, float]], scale: float) -> float:
    """The KL, nats a reply, that the trial of this scale was measured to cost."""
    return min(trials, key=lambda trial: abs(trial["scale"] - scale))["kl_nats"]


def _print_times(run: Run, folder: Path) -> None:
    minutes: dict[str, float] = {}
    for iteration in run.iterations:
        for name in iteration.stages:
            if not iteration.stage(name).folder.is_relative_to(run.run_dir.path):
                continue  # another run took that time
            minutes[name] = minutes.get(name, 0.0) + iteration.stage(name).summary()["seconds"] / 60
    console.print(", ".join(f"{name} {spent:.1f} min" for name, spent in minutes.items()))
    console.print(f"{sum(minutes.values()):.1f} min in all; the checkpoint is in {folder}", soft_wrap=True)
