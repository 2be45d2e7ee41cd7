"""A recipe as a YAML file: found by its name or path, and refused by the key that is wrong.

Runs in any training process. Must not import torch or vllm. Recipes that ship lie in `training/recipes/`.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from training.errors import RecipeError
from training.recipe import ObjectiveRecipe, Recipe

RECIPES = Path(__file__).parent / "recipes"


def read_recipe(name_or_path: str) -> Recipe:
    """Read a shipped recipe by its name, or any recipe by its path.

    Raises:
        RecipeError: it is missing, not YAML, or a key is unknown, missing or out of range.
    """
    shipped = RECIPES / f"{name_or_path}.yaml"
    path = shipped if shipped.is_file() else Path(name_or_path)
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise RecipeError(f"recipe: got {name_or_path!r}, allowed is {names}, or the path of a YAML file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from None
    return parse_recipe(content, str(path))


def parse_recipe(content: Any, source: str) -> Recipe:
    """Validate a recipe's content.

    Raises:
        RecipeError: naming the key, what was given, and what is allowed.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{source}: {_first_of(error)}") from None


def parse_objective(name: str, description: str, reward: str) -> ObjectiveRecipe:
    """Validate an objective that is given by itself.

    Args:
        reward: with its parameters, where it takes some, as `training.rewards.reward` reads them.

    Raises:
        RecipeError: naming the field, what was given, and what is allowed.
    """
    try:
        return ObjectiveRecipe(name=name, description=description, reward=reward)
    except ValidationError as error:
        raise RecipeError(_first_of(error)) from None


def _first_of(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key, allowed is {_known_keys(first['loc'])}"
    return f"{where}: {first['msg']} (got {str(first.get('input'))[:80]})"


def _known_keys(location: tuple[int | str, ...]) -> str:
    model: Any = Recipe
    for part in location[:-1]:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            model = next(inner for inner in _models_in(annotation))
    return "one of " + ", ".join(model.model_fields)


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models_in(inner)]
