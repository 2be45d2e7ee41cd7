"""The folder of one training run: which stage is done, what it was made from, and where its files lie.

    runs/<name>/recipe.json                  the validated recipe
    runs/<name>/kind.json                    what is made there, and of what: a checkpoint, another run's replies
    runs/<name>/iter_<n>/<stage>/inputs.json what the stage depends on, written before it starts
    runs/<name>/iter_<n>/<stage>/done.json   its closing figures, written last: without it the stage is not done

Runs in any training process. Standard library only.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from training.errors import RunDirError

INPUTS_FILE = "inputs.json"
DONE_FILE = "done.json"
RECIPE_FILE = "recipe.json"
KIND_FILE = "kind.json"
_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of one iteration.

    Attributes:
        folder: where its files lie.
        inputs: everything its result depends on, JSON only: its own settings and those of the stages before it.
    """

    folder: Path
    inputs: Mapping[str, Any]

    @property
    def is_done(self) -> bool:
        return (self.folder / DONE_FILE).is_file()

    def check(self) -> None:
        """Refuse to go on in a folder that other inputs started.

        Raises:
            RunDirError: naming the first setting that differs.
        """
        path = self.folder / INPUTS_FILE
        if not path.is_file():
            if self.is_done:
                raise RunDirError(f"{self.folder} has {DONE_FILE} but no {INPUTS_FILE}: remove the folder to redo it")
            return
        before = read_json(path)
        if (difference := first_difference(before, _as_json(self.inputs))) is not None:
            name, was, now = difference
            raise RunDirError(
                f"{self.folder} was made with {name} = {was}, but it is {now} now: give another --run-dir, "
                f"or remove this folder and those of the stages after it"
            )

    def start(self) -> Path:
        """Check, make the folder, and note the inputs. Returns the folder; safe to repeat after an interruption.

        What a killed process was writing is removed.
        """
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in list(self.folder.rglob(f".*{_PARTIAL}")):
            shutil.rmtree(leftover, ignore_errors=True)
        write_json(self.folder / INPUTS_FILE, self.inputs)
        return self.folder

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the stage done. Its files must be complete by now."""
        write_json(self.folder / DONE_FILE, summary)

    def summary(self) -> dict[str, Any]:
        """The closing figures of a stage that is done.

        Raises:
            RunDirError: it is not done.
        """
        if not self.is_done:
            raise RunDirError(f"{self.folder} is not done: run the stages before it first")
        summary: dict[str, Any] = read_json(self.folder / DONE_FILE)
        return summary


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folder of one run."""

    path: Path

    def stage(self, iteration: int, name: str, inputs: Mapping[str, Any]) -> Stage:
        return Stage(self.path / f"iter_{iteration}" / name, inputs)

    @property
    def recipe_path(self) -> Path:
        return self.path / RECIPE_FILE

    @property
    def kind_path(self) -> Path:
        return self.path / KIND_FILE

    def kind(self) -> tuple[str, dict[str, Any]]:
        """What is made in the folder, and of what.

        Raises:
            RunDirError: nothing is.
        """
        if not self.kind_path.is_file():
            raise RunDirError(f"{self.path} holds no training run: it has no {KIND_FILE}")
        found: dict[str, Any] = read_json(self.kind_path)
        return found["kind"], found["made_of"]

    def begin(self, kind: str, made_of: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
        """Put what the stages' processes need where they read it.

        Raises:
            RunDirError: something else is made in the folder.
        """
        if self.kind_path.is_file() and (found := self.kind()[0]) != kind:
            raise RunDirError(f"{self.path} holds a run of another kind ({found}, not {kind}): give another --run-dir")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.kind_path, {"kind": kind, "made_of": made_of})
        write_json(self.recipe_path, recipe)


def content_hash(content: Any) -> str:
    """A short hash of JSON content that does not depend on the order of keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """A short hash of a file's bytes.

    Raises:
        RunDirError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise RunDirError(f"{path} cannot be read: {error.strerror}") from None


def folder_hash(folder: str | Path, without: Collection[str] = ()) -> str:
    """A short hash of a model folder's content: names and bytes of its JSON and safetensors files.

    Read once a process for each state of the files.

    Args:
        without: names of files that do not count.
    """
    paths = (path for path in Path(folder).glob("*") if path.suffix in (".json", ".safetensors"))
    return _hash_of(path for path in paths if path.name not in without)


def dataset_hash(folder: Path) -> str:
    """A short hash of a dataset's content: names and bytes of all files in its folder and below."""
    return _hash_of(path for path in folder.rglob("*") if path.is_file())


def _hash_of(paths: Iterable[Path]) -> str:
    return _hash_of_files(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(paths)))


@lru_cache(maxsize=64)
def _hash_of_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    return content_hash([[path.name, file_hash(path)] for path, *_ in files])


def first_difference(before: Any, now: Any, name: str = "") -> tuple[str, str, str] | None:
    """The first place where two JSON contents differ, as (dotted name, was, is); None where they are equal."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            inner = f"{name}.{key}" if name else key
            if (found := first_difference(before.get(key), now.get(key), inner)) is not None:
                return found
        return None
    return None if before == now else (name, json.dumps(before), json.dumps(now))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to a file of another folder, which takes `path`'s place only when the block ends well.

    A folder of its own, because libraries put temporary files beside what they write, and a kill leaves them there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    partial.mkdir(exist_ok=True)
    try:
        yield partial / path.name
        os.replace(partial / path.name, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the whole of it or nothing."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON that `write_json` wrote.

    Raises:
        RunDirError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RunDirError(f"{path} cannot be read: {error}") from None


def _as_json(content: Any) -> Any:
    return json.loads(json.dumps(content))
