"""What a finished run says at its end: where its results lie and how good they are.

Runs in the process of `mavis train run`. Must not import torch or vllm.
"""

import shutil
from pathlib import Path

from rich.table import Table

from training.progress import console
from training.run import CHECKPOINT_FOLDER, STAGE_NAMES, Run
from valuemodels.value_config import read_value_config


def print_summary(run: Run) -> None:
    """Print the finished checkpoint's figures and the time each stage took."""
    folder = run.finished("export") / CHECKPOINT_FOLDER
    trials = run.stage("calibrate").summary()["trials"]
    config = read_value_config(folder)
    table = Table("objective", "base mean", "base std", "explained, test", "at 16", "at end", "scale", "KL, nats")
    for objective in config.objectives:
        metrics = objective.metrics
        nearest = min(trials[objective.name], key=lambda trial: abs(trial["scale"] - objective.scale))
        table.add_row(
            objective.name,
            f"{objective.mean:.3f}",
            f"{objective.std:.3f}",
            *(f"{metrics.get(f'test_explained_variance{at}', float('nan')):.2f}" for at in ("", "_at_16", "_at_end")),
            f"{objective.scale:.3g}",
            f"{nearest['kl_nats']:.2f}",
        )
    console.print(table)
    minutes = {name: run.stage(name).summary()["seconds"] / 60 for name in STAGE_NAMES}
    console.print(", ".join(f"{name} {spent:.1f} min" for name, spent in minutes.items()))
    console.print(f"{sum(minutes.values()):.1f} min in all; the checkpoint is in {folder}", soft_wrap=True)


def copy_checkpoint(run: Run, target: Path) -> None:
    """Put a copy of the finished checkpoint in `target`'s place, whole or not at all."""
    source = run.finished("export") / CHECKPOINT_FOLDER
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    console.print(f"copied to {target}", soft_wrap=True)
