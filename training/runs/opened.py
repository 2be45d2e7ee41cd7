"""A training run's folder, opened.

Runs in any training process. Must not import torch or vllm.
"""

from pathlib import Path
from typing import Any

from training.errors import RunDirError
from training.recipe import Recipe
from training.recipe_file import parse_recipe
from training.runs.base import find_base
from training.runs.run import Run
from training.runs.run_dir import RunDir, read_json


def open_folder(path: Path, kind: str) -> tuple[RunDir, Recipe, dict[str, Any]]:
    """What lies in a run's folder: its recipe, and what the run is made of.

    Raises:
        RunDirError: there is no run of this kind.
        RecipeError: its recipe has been tampered with.
    """
    run_dir = RunDir(path)
    found, made_of = run_dir.kind()
    if found != kind:
        raise RunDirError(f"{path} holds a run of another kind: {found}, not {kind}")
    return run_dir, parse_recipe(read_json(run_dir.recipe_path), str(run_dir.recipe_path)), made_of


def open_run(path: Path, base_folder: Path | None = None) -> Run:
    """The training run in a folder.

    Args:
        base_folder: where its base model lies, if not where it is looked for.

    Raises:
        RunDirError, RecipeError: see `open_folder`.
    """
    run_dir, recipe, _ = open_folder(path, Run.kind)
    return Run(recipe, run_dir, find_base(recipe, base_folder))
