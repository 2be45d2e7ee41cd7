"""One training run: its recipe, its folder, and what each of its stages depends on.

Runs in any training process. Must not import torch or vllm.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from training.recipe import Recipe, parse_recipe
from training.run_dir import RunDir, RunDirError, Stage, file_hash, read_json, write_json

VALUES_FOLDER = "values"
"""The fitted checkpoint's folder in the fit stage's; its scales are all 1."""

CHECKPOINT_FOLDER = "checkpoint"
"""The finished checkpoint's folder in the export stage's."""

StageName = Literal["prompts", "rollouts", "rewards", "fit", "calibrate", "export"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)


@dataclass(frozen=True, slots=True)
class Run:
    """A recipe being carried out in a folder.

    Attributes:
        iteration: iteration 0 samples from the base; a later one would sample through the guide of the one before.
        base_folder: where the base model lies on this machine.
    """

    recipe: Recipe
    run_dir: RunDir
    base_folder: str
    iteration: int = 0

    def stage(self, name: StageName) -> Stage:
        """A stage's folder, with the settings that its result depends on: its own and those of the stages before."""
        own = _own_inputs(self.recipe)
        upto = STAGE_NAMES[: STAGE_NAMES.index(name) + 1]
        return self.run_dir.stage(self.iteration, name, {stage: own[stage] for stage in upto})

    def finished(self, name: StageName) -> Path:
        """The folder of a stage whose files are complete.

        Raises:
            RunDirError: it is not done, or was done with other settings.
        """
        stage = self.stage(name)
        stage.check()
        stage.summary()
        return stage.folder


def write_recipe(run_dir: RunDir, recipe: Recipe) -> None:
    """Put the recipe where the stages' processes read it."""
    run_dir.path.mkdir(parents=True, exist_ok=True)
    write_json(run_dir.recipe_path, recipe.model_dump(mode="json"))


def open_run(path: Path, base_folder: Path | None = None) -> Run:
    """The run in a folder.

    Args:
        base_folder: where its base model lies, if not where it is looked for.

    Raises:
        RunDirError: there is none.
        RecipeError: its recipe has been tampered with.
    """
    run_dir = RunDir(path)
    if not run_dir.recipe_path.is_file():
        raise RunDirError(f"{path} holds no training run: it has no {run_dir.recipe_path.name}")
    recipe = parse_recipe(read_json(run_dir.recipe_path), str(run_dir.recipe_path))
    return Run(recipe, run_dir, find_base(recipe, base_folder))


def find_base(recipe: Recipe, base_folder: Path | None = None) -> str:
    """The folder of a recipe's base model, which is converted or fetched first where that is still to be done."""
    if base_folder is not None:
        return str(base_folder)
    from training.base import base_folder as look_up

    return look_up(recipe.base, recipe.base_revision)


def _own_inputs(recipe: Recipe) -> dict[StageName, dict[str, Any]]:
    whole = recipe.model_dump(mode="json")

    def pick(*keys: str) -> dict[str, Any]:
        return {key: whole[key] for key in keys}

    return {
        "prompts": {**pick("base", "base_revision", "split", "limit"), "file": file_hash(recipe.prompts_path)},
        "rollouts": pick("seed", "engine", "rollout"),
        "rewards": {"objectives": {objective.name: objective.reward for objective in recipe.objectives}},
        "fit": pick("backbone", "head", "fit"),
        "calibrate": pick("calibrate"),
        "export": {"name": recipe.name, **{o.name: o.description for o in recipe.objectives}},
    }
