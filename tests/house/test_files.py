"""One noun a file: how long files and functions may be, and what each must say about itself."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDERS = ("server", "valuemodels", "training", "client/mavis_client", "client/mavis_chat")
MAX_FILE_LINES = 250
MAX_FUNCTION_LINES = 40
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}

LONGER_FILES: dict[str, str] = {}
"""Path -> why this file is one noun all the same."""

LONGER_FUNCTIONS: dict[str, str] = {}
"""path::function -> why it reads better whole."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """A file of ours: its path from the root, its text, its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    def long_functions(self) -> dict[str, int]:
        """path::function -> lines, of those that do not fit a screen."""
        functions = (node for node in ast.walk(self.tree) if isinstance(node, Function))
        lengths = {f"{self.path}::{function.name}": body_lines(function) for function in functions}
        return {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES}


def body_lines(function: Function) -> int:
    """Lines from `def` to the end, without the docstring: words that explain should not be dear."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


@pytest.fixture(scope="module")
def sources(root: Path) -> list[Source]:
    paths = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return [Source(path, text, ast.parse(text, path)) for path, text in texts.items()]


def test_a_file_is_short_enough_for_one_noun(sources: list[Source]) -> None:
    long = {source.path: source.lines for source in sources if source.lines > MAX_FILE_LINES}
    assert {path: lines for path, lines in long.items() if path not in LONGER_FILES} == {}
    assert long.keys() >= LONGER_FILES.keys(), "an exception has outlived its file"


def test_a_function_fits_a_screen(sources: list[Source]) -> None:
    long = {name: lines for source in sources for name, lines in source.long_functions().items()}
    assert {name: lines for name, lines in long.items() if name not in LONGER_FUNCTIONS} == {}
    assert long.keys() >= LONGER_FUNCTIONS.keys(), "an exception has outlived its function"


def test_a_file_says_what_it_is(sources: list[Source]) -> None:
    assert [source.path for source in sources if not ast.get_docstring(source.tree)] == []


def test_a_file_has_a_name_that_says_something(sources: list[Source]) -> None:
    names = {
        source.path: {part.removesuffix(".py").strip("_") for part in source.path.split("/")} for source in sources
    }
    assert [path for path, parts in names.items() if parts & VAGUE_NAMES] == []


def test_nothing_is_left_for_later(sources: list[Source]) -> None:
    assert [source.path for source in sources if re.search(r"\b(?:TODO|FIXME|XXX|HACK)\b", source.text)] == []


@pytest.mark.parametrize(
    ("mark", "folders"),
    [
        ("engine", ("tests/e2e/", "tests/invariants/", "tests/training/")),
        ("processes", ("tests/e2e/", "tests/invariants/")),
    ],
)
def test_marked_tests_lie_where_their_lane_of_make_test_looks(root: Path, mark: str, folders: tuple[str, ...]) -> None:
    texts = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in (root / "tests").rglob("test_*.py")}
    marked = [path for path, text in texts.items() if f"pytest.mark.{mark}" in text]
    assert marked and [path for path in marked if not path.startswith(folders)] == []
