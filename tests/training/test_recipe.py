"""Recipes: what ships is valid, and what is wrong is named."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.errors import RecipeError
from training.prompts.datasets import load_prompts
from training.prompts_recipe import DatasetRecipe
from training.recipe_file import RECIPES, parse_recipe, read_recipe
from training.rewards.reward import REWARDS


@pytest.fixture
def content() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((RECIPES / "embedded.yaml").read_text(encoding="utf-8"))
    return copy.deepcopy(loaded)


def test_every_shipped_recipe_is_valid_and_finds_its_prompts_and_rewards() -> None:
    for path in RECIPES.glob("*.yaml"):
        recipe = read_recipe(path.stem)
        assert recipe.name == path.stem
        assert all(objective.reward in REWARDS for objective in recipe.objectives)
        assert isinstance(recipe.prompts, DatasetRecipe) or load_prompts(recipe)


def test_a_recipe_is_short_where_it_has_nothing_special_to_say(content: dict[str, Any]) -> None:
    """What is left out is what the shipped recipe says."""
    short = parse_recipe({key: content[key] for key in ("name", "objectives", "seed")}, "short")
    whole = read_recipe("embedded")
    for part in ("base", "prompts", "split", "rollout", "backbone", "head"):
        assert getattr(short, part) == getattr(whole, part), part
    assert short.calibrate.target_kl == whole.calibrate.target_kl


def test_embedded_recipe_trains_every_reward_of_words_that_ships() -> None:
    of_a_service = {"classifier", "endpoint", "judge", "combined"}
    assert {objective.reward for objective in read_recipe("embedded").objectives} == REWARDS.keys() - of_a_service


def test_recipe_may_be_a_path(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**content, "name": "own"}))
    assert read_recipe(str(path)).name == "own"


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("epochs", to=3), r"recipe: epochs: unknown key, allowed is one of name, base"),
        (_set("fit", "learning_rat", to=1), r"fit\.learning_rat: unknown key, allowed is one of epochs, learning_rate"),
        (_set("objectives", 0, "weight", to=1), r"objectives\.0\.weight: unknown key, allowed is one of name, desc"),
        (_set("backbone", "adapter", "dropout", to=0), r"backbone\.adapter\.dropout: unknown key, .*rank, alpha"),
        (_set("fit", "epochs", to=0), r"fit\.epochs: .*greater than or equal to 1 \(got 0\)"),
        (_set("fit", "learning_rate", to=float("nan")), r"fit\.learning_rate: .*\(got nan\)"),
        (_set("fit", "schedule", to="constant"), r"fit\.schedule: .*'cosine' or 'linear'.*constant"),
        (_set("rollout", "temperature", to=0), r"rollout\.temperature: .*greater than 0 \(got 0\)"),
        (_set("rollout", "samples", to="many"), r"rollout\.samples: .*integer.*\(got many\)"),
        (_set("split", "test", to=0), r"split\.test: .*greater than 0 \(got 0\)"),
        (_set("split", "test", to=0.5), r"split: .*sum to 1.35"),
        (_set("objectives", to=[]), r"objectives: .*at least 1 item"),
        (_set("objectives", 0, "name", to="Positivity!"), r"objectives\.0\.name: .*\(got Positivity!\)"),
        (_set("objectives", 1, "name", to="positivity"), r"objective positivity is listed twice"),
        (_set("head", to={"kind": "mlp"}), r"head: .*head\.hidden"),
        (_set("fast", to={"lookahead": {"positions": 0}}), r"fast\.lookahead\.positions: .*greater than 0 \(got 0\)"),
        (
            _set("fast", to={"lookahead": {}, "critic": {"prefix_every": 8}}),
            r"fast: .*every 1, and not with 8",
        ),
        (_set("calibrate", "max_evaluations", to=1), r"calibrate\.max_evaluations: .*\(got 1\)"),
    ],
)
def test_wrong_recipe_is_refused_by_name(
    content: dict[str, Any], change: Callable[[dict[str, Any]], None], message: str
) -> None:
    change(content)
    with pytest.raises(RecipeError, match=message):
        parse_recipe(content, "recipe")


@pytest.mark.parametrize("key", ["name", "objectives"])
def test_missing_key_is_named(content: dict[str, Any], key: str) -> None:
    del content[key]
    with pytest.raises(RecipeError, match=f"recipe: {key}: Field required"):
        parse_recipe(content, "recipe")


def test_unknown_recipe_names_those_that_ship() -> None:
    with pytest.raises(RecipeError, match=r"got 'nothing', allowed is .*embedded"):
        read_recipe("nothing")


@pytest.mark.parametrize("text", ["a: [", "\x00", "- a\n- b", "", "42"])
def test_file_that_is_no_recipe_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"broken\.yaml"):
        read_recipe(str(path))
