"""`mavis train reward`: a reward of preference pairs.

    mavis train reward PAIRS RUN_DIR [--base embedded] [--layers 8] [--limit 500]

    RUN_DIR/model      a sequence classifier, for the reward `classifier`
    RUN_DIR/trainer    what an interrupted run goes on from

Must not import torch or vllm at the top.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from training.pairs.pairs import PairRecipe, read_pairs
from training.runs.base import look_up_base
from training.runs.command import errors_in_one_sentence
from training.runs.progress import console
from training.runs.run_dir import Stage, file_hash, folder_hash
from valuemodels.sources.embedded import EMBEDDED

MODEL, TRAINER = "model", "trainer"
_DEFAULTS = PairRecipe()


def make_reward_model(
    pairs: Annotated[Path, typer.Argument(help="JSON lines of preference pairs, gzipped or not.")],
    run_dir: Annotated[Path, typer.Argument(help="Where the reward model and what it is made from go.")],
    base: Annotated[str, typer.Option(help="embedded, or a folder or hub id of a chat model.")] = EMBEDDED,
    layers: Annotated[int | None, typer.Option(min=1, help="The base's first so many; all if not given.")] = None,
    epochs: Annotated[float, typer.Option(min=0.01)] = _DEFAULTS.epochs,
    learning_rate: Annotated[float, typer.Option(min=0)] = _DEFAULTS.learning_rate,
    batch_size: Annotated[int, typer.Option(min=1)] = _DEFAULTS.batch_size,
    max_length: Annotated[int, typer.Option(min=8, help="Tokens of chat and reply.")] = _DEFAULTS.max_length,
    seed: Annotated[int, typer.Option(min=0)] = _DEFAULTS.seed,
    limit: Annotated[int | None, typer.Option(min=4, help="Use only the first N pairs.")] = None,
) -> None:
    """Make a reward of preference pairs: a small model, for the reward `classifier`. Goes on where it was."""
    with errors_in_one_sentence():
        some = read_pairs(pairs, limit)
        recipe = PairRecipe(layers, epochs, learning_rate, batch_size, max_length=max_length, seed=seed)
        folder = look_up_base(base)
        content = {"pairs": file_hash(pairs), "base": folder_hash(folder), "limit": limit}
        stage = Stage(run_dir, {**asdict(recipe), **content})
        stage.start()
        if not stage.is_done:
            from training.pairs.reward_model import train_reward_model

            figures = train_reward_model(folder, some, recipe, run_dir / TRAINER, run_dir / MODEL)
            stage.finish(asdict(figures))
        _print(stage.summary(), run_dir)


def _print(figures: Mapping[str, Any], run_dir: Path) -> None:
    accuracy, by_length = (
        "{value:.3f} ({low:.3f} to {high:.3f})".format(**figures[k]) for k in ("accuracy", "by_length")
    )
    table = Table(
        "held-out pairs", "accuracy", "longer wins", "log loss", "calibration error", "correlation with length"
    )
    numbers = (figures[key] for key in ("log_loss", "calibration_error", "length_correlation"))
    table.add_row(str(figures["pairs"]), accuracy, by_length, *(f"{number:.3f}" for number in numbers))
    console.print(table)
    console.print(f"a coin's log loss is 0.693; the model is in {run_dir / MODEL}", soft_wrap=True)
