"""The documents: nothing of ours is left out of them, and what they point at is there."""

import json
import re
from collections.abc import Callable, Iterator
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


def test_the_table_of_turns_is_what_was_measured() -> None:
    measured = json.loads((ROOT / "docs" / "evaluation" / "embedded" / "flip.json").read_text(encoding="utf-8"))
    page = text("docs/steer.md")
    for row in measured["rows"]:
        halves = [row["first"], row["second"]]
        told = " | ".join(f"{half['value']:+.2f} [{half['low']:+.2f}, {half['high']:+.2f}]" for half in halves)
        assert f"| {row['course']} | {told} | {row['kl_nats']['value']:.1f} |" in page


EVALUATION = "valuemodels/checkpoints/embedded/evaluation.json"
SECOND = {
    "positivity": "Polarity",
    "simplicity": "ReadingEase",
    "curiosity": "AskingSentences",
    "conciseness": "FewCharacters",
    "helpfulness": "SharedWords",
    "harmlessness": "UnlikeInsults",
}
"""Objective -> the class of `training/rewards/second.py` that has another measure for it."""


def shown(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:+.2f} ({estimate['low']:+.2f} to {estimate['high']:+.2f})"


def between(estimate: dict[str, float]) -> str:
    """Of what has no sign to show."""
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


def slider_lines(measured: dict[str, Any]) -> Iterator[str]:
    """The README's table of what each slider does, a line a slider."""
    rows = {tuple(row["setting"]["weights"].items()): row for row in measured["rows"]}
    for slider in measured["sliders"]:
        name = slider["objective"]
        shifts = [rows[(name, weight),]["objectives"][name]["shift"] for weight in (-1.0, -0.5, 0.5, 1.0)]
        cost = f"{rows[(name, 1.0),]['kl_nats']['value']:.1f}"
        follows = [slider["follows"][key] for key in (name, f"training.rewards.second:{SECOND[name]}")]
        yield f"| {' | '.join([name, *map(shown, shifts), cost, shown(slider['gain']), *map(between, follows)])} |"


def effect_lines(measured: dict[str, Any]) -> Iterator[str]:
    """The README's table of what each slider does to all rewards, a line a slider."""
    names = [slider["objective"] for slider in measured["sliders"]]
    for slider in measured["sliders"]:
        effects = " | ".join(f"{slider['effects'][name]['value']:+.2f}" for name in names)
        yield f"| {slider['objective']} +1 | {effects} |"


@pytest.mark.parametrize("lines", [slider_lines, effect_lines])
def test_readme_says_of_the_sliders_what_was_measured(lines: Callable[[dict[str, Any]], Iterator[str]]) -> None:
    measured = json.loads((ROOT / EVALUATION).read_text(encoding="utf-8"))
    config = json.loads((ROOT / EVALUATION).with_name("value_config.json").read_text(encoding="utf-8"))
    assert measured["checkpoint"] == config["id"], "it was trained again since"
    found = list(lines(measured))
    assert len(found) == len(config["objectives"])
    for line in found:
        assert line in text("README.md")


def test_readme_compares_the_scorings_as_was_measured() -> None:
    measured = json.loads((ROOT / "docs" / "evaluation" / "embedded" / "compare.json").read_text(encoding="utf-8"))
    for row in measured["rows"]:
        weights = ", ".join(f"{name} {weight:+g}" for name, weight in row["setting"]["weights"].items())
        label = weights if len(row["setting"]["weights"]) == 1 else "all at +0.5"
        gains = [row["exact_gain"], row["fast_gain"], row["ratio"]]
        told = " | ".join(map(between, gains))
        assert f"| {label} | {row['kl_nats']['value']:.1f} | {told} |" in text("README.md")


def test_sliders_stand_beside_the_best_policies_as_was_measured() -> None:
    measured = json.loads((ROOT / "docs/evaluation/embedded/optimum.json").read_text(encoding="utf-8"))
    page = text("docs/train.md")
    for row in measured["rows"]:
        near = row["near"]
        told = " | ".join(shown(near[key]) for key in ("gain", "best", "share"))
        label = f"{row['objective']} {row['weight']:+g}"
        assert f"| {label} | {near['kl_nats']['value']:.2f} | {told} | {near['effective']:.0f} |" in page


def test_training_page_says_what_depth_and_replies_do_as_was_measured() -> None:
    measured = json.loads((ROOT / "docs/evaluation/embedded/ablations.json").read_text(encoding="utf-8"))
    page = text("docs/train.md")
    for row in measured["rows"]:
        shares = [f"{share['value']:.2f}" for name, share in row["explained"].items() if name != "mean"]
        ahead = "" if row["ahead"] is None else shown(row["ahead"]["mean"])
        told = [row["variant"], *shares, shown(row["explained"]["mean"]), ahead]
        assert f"| {' | '.join(told)} |" in page


TILTS = ("5", "10", "20", "", "112", "256")
"""Numbers of candidates; the server's default has none in its method's name."""


def front_lines(report: dict[str, Any], *, says_ahead: bool = False) -> Iterator[str]:
    """The README's table of what can be had together, a line for each method on each group of objectives.

    Args:
        says_ahead: with columns of how far the first method is ahead of each.
    """
    for group in report["groups"]:
        names = " + ".join(group["objectives"])
        for each in group["methods"]:
            cells = []
            for key in ("hypervolume", "mip"):
                cells.append(between(each[key]))
                if says_ahead:
                    ahead = each[f"{key}_ahead"]
                    cells.append(between(ahead) if ahead else "")
            cells += [f"{each['kl_nats']['value']:.1f}", f"{each['perplexity']:.1f}", f"{each['passes']:g}"]
            yield f"| {' | '.join([names, each['method'], *cells])} |"


def test_readme_says_what_can_be_had_together_as_was_measured() -> None:
    report = json.loads((ROOT / "docs/evaluation/embedded/front/report.json").read_text(encoding="utf-8"))
    lines = list(front_lines(report))
    assert len(lines) >= 3 * 5
    for line in lines:
        assert line in text("README.md")


def test_readme_says_what_more_candidates_buy_as_was_measured() -> None:
    report = json.loads((ROOT / "docs/evaluation/embedded/candidates/report.json").read_text(encoding="utf-8"))
    lines = list(front_lines(report))
    for count in TILTS:
        name = "tilted, fast" + (f", {count} candidates" if count else "")
        (line,) = (line for line in lines if f"| {name} |" in line)
        assert line in text("README.md")


def test_readme_says_what_fine_tuned_experts_reach_as_was_measured() -> None:
    report = json.loads((ROOT / "docs/evaluation/embedded/experts/report.json").read_text(encoding="utf-8"))
    told = [line for line in front_lines(report, says_ahead=True) if "| base |" not in line]
    for name in ("prompted", "best of 16", "rewarded soup", "MOD"):
        assert sum(f"| {name} |" in line for line in told) == len(report["groups"])
    for line in told:
        assert line in text("README.md")
