"""A recipe of which one key differs: its values are fitted to the replies that another run has, and go no further.

Runs in any training process. Must not import torch or vllm.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from training.errors import RecipeError
from training.recipe import Recipe
from training.recipe_file import parse_recipe
from training.runs.base import find_base
from training.runs.opened import open_folder
from training.runs.run import Run, StageInputs, StageName
from training.runs.run_dir import RunDir, content_hash

SECTIONS = ("backbone", "head", "fit")
"""Parts of a recipe that change what is fitted, and not what it is fitted to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRun(Run):
    """A fit alone, to be compared with others of the same replies.

    With `cached`, prompts, replies and rewards are that run's; without, it makes them, for itself and the others.
    """

    kind: ClassVar[str] = "variant"
    shared: ClassVar[tuple[StageName, ...]] = ("prompts", "rollouts", "rewards")

    @property
    def made_of(self) -> dict[str, Any]:
        """See `Run.made_of`."""
        return {} if self.cached is None else {"run": str(self.cached.path.absolute())}

    def own_inputs(self) -> StageInputs:
        """See `Run.own_inputs`."""
        inputs = Run.own_inputs(self)
        return {name: inputs[name] for name in (*self.shared, self.values_stage)}

    @property
    def checkpoint_id(self) -> str:
        """See `Run.checkpoint_id`."""
        return f"{self.recipe.name}-{content_hash(self.stage(self.values_stage).inputs)[:8]}"


def variant_run(recipe: Recipe, run_dir: Path, cached: RunDir | None, base_folder: Path | None = None) -> VariantRun:
    """The first round of a recipe, up to its fit."""
    alone = recipe.model_copy(update={"iterations": 1, "judge": None})
    return VariantRun(alone, RunDir(run_dir), find_base(alone, base_folder), cached=cached)


def open_variant_run(path: Path, base_folder: Path | None = None) -> VariantRun:
    """The variant in a folder.

    Raises:
        RunDirError, RecipeError: see `open_folder`.
    """
    run_dir, recipe, made_of = open_folder(path, VariantRun.kind)
    cached = RunDir(Path(made_of["run"])) if made_of else None
    return VariantRun(recipe, run_dir, find_base(recipe, base_folder), cached=cached)


def varied(recipe: Recipe, key: str, value: str) -> Recipe:
    """The recipe with another value of one key.

    Args:
        key: with dots, as `backbone.layers`; of one of SECTIONS.
        value: as YAML has it.

    Raises:
        RecipeError: there is no such key there, or the value is not allowed for it.
    """
    content = recipe.model_dump(mode="json")
    section, *inner = key.split(".")
    if section not in SECTIONS or not inner:
        allowed = ", ".join(f"{name}.*" for name in SECTIONS)
        raise RecipeError(f"vary: got {key!r}, allowed is a key of {allowed}: all are fitted to the same replies")
    place = content[section]
    for name in inner[:-1]:
        place = place.get(name) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise RecipeError(f"vary: got {key!r}, but the recipe has no {key.rpartition('.')[0]}")
    place[inner[-1]] = yaml.safe_load(value)
    return parse_recipe(content, f"{recipe.name} with {key}={value}")
