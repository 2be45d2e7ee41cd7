"""The documents: nothing of ours is left out of them, and what they point at is there."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from server import cli
from server.start.settings import PREFIX, Settings
from training import cli as train
from training.bench import bench
from training.evaluate import fast_vs_exact
from training.front import command as front
from training.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("client/*.md")])
COMMANDS: dict[str, tuple[typer.Typer, str]] = {
    "serve": (cli.app, "docs/serve.md"),
    "train": (train.app, "docs/train.md"),
    "evaluate": (front.app, "docs/train.md"),
    "compare": (fast_vs_exact.app, "docs/train.md"),
    "bench": (bench.app, "docs/serve.md"),
}
NOT_FILES = {"/openapi.json", "value_config.json", "model.safetensors", "inputs.json", "done.json"}


@cache
def files() -> list[str]:
    """Every file of ours, by its path from the root."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in (path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")):
        found += folder.rglob("*")
    return [path.relative_to(ROOT).as_posix() for path in found]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def options(command: Any) -> Iterator[str]:
    """Every long flag of a command and of those below it, but for those that typer adds."""
    for inner in getattr(command, "commands", {}).values():
        yield from options(inner)
    for parameter in command.params:
        if parameter.param_type_name == "option":
            yield from (flag for flag in parameter.opts if flag.startswith("--"))


def keys(model: type[BaseModel]) -> Iterator[str]:
    """Every key of a recipe, at all depths."""
    for name, info in model.model_fields.items():
        yield name
        for inner in models_in(info.annotation):
            yield from keys(inner)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from models_in(inner)


def test_every_setting_is_on_the_operators_page() -> None:
    page = text("docs/operate.md")
    assert [name for name in Settings.model_fields if f"`{PREFIX}{name.upper()}`" not in page] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_on_its_page(name: str) -> None:
    app, page = COMMANDS[name]
    found = set(options(typer.main.get_command(app))) - {"--help", "--install-completion", "--show-completion"}
    assert found
    assert {option for option in found if option not in text(page)} == set()


def test_every_key_of_a_recipe_is_on_the_trainers_page() -> None:
    assert {key for key in keys(Recipe) if f"`{key}`" not in text("docs/train.md")} == set()


def test_the_trainers_page_prints_the_example_that_is_tried_out() -> None:
    """A slider of one's own, in at most 15 lines of YAML: tests/e2e/test_examples.py carries it out."""
    folder = ROOT / "examples" / "own_objective"
    for name, language in (("questions.py", "python"), ("recipe.yaml", "yaml")):
        assert f"```{language}\n{(folder / name).read_text(encoding='utf-8')}```" in text("docs/train.md"), name
    assert len((folder / "recipe.yaml").read_text(encoding="utf-8").splitlines()) <= 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    found = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in found if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_are_named_are_there(page: Path) -> None:
    """A file is named by its path from the root, or by its end where the room is clear."""
    named = set(re.findall(r"`([\w./-]+\.(?:py|sh|yaml|toml|json|safetensors))`", page.read_text(encoding="utf-8")))
    missing = {name for name in named - NOT_FILES if not any(f"/{path}".endswith(f"/{name}") for path in files())}
    assert missing == set()
