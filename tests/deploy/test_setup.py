"""deploy/setup.sh before it installs anything: which Python it takes, and which environment it keeps."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What set-up reads of this project, with an environment of Python 3.11 that holds everything."""
    for name in ("deploy/setup.sh", "requirements/cpu.txt", "requirements/cpu-dev.txt", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "client").mkdir()
    shutil.copy(ROOT / "client/pyproject.toml", tmp_path / "client")
    _python(tmp_path / ".venv/bin/python", "3.11")
    pinned = hashlib.sha256((tmp_path / "requirements/cpu-dev.txt").read_bytes()).hexdigest()[:16]
    (tmp_path / f".venv/.installed-cpu-dev-{pinned}").touch()
    return tmp_path


def _python(path: Path, version: str) -> Path:
    """One that knows its version, has what set-up looks for, and makes no environment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\ncase "$*" in *version_info*) echo {version} ;; *"-m venv"*) exit 3 ;; esac\n')
    path.chmod(0o755)
    return path


def _set_up(tree: Path, python: Path | None, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    if python is not None:
        environment["PYTHON"] = str(python)
    command = ["bash", str(tree / "deploy/setup.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("named", [None, "3.11"])
def test_an_environment_that_holds_everything_is_kept(tree: Path, named: str | None) -> None:
    python = None if named is None else _python(tree / "python", named)
    done = _set_up(tree, python, "cpu", "--requirements-only")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_environment_of_another_python_than_is_named_is_made_anew(tree: Path) -> None:
    done = _set_up(tree, _python(tree / "python", "3.12"), "cpu", "--requirements-only")
    assert done.returncode == 3 and "is not of Python 3.12; making it anew" in done.stdout, done
    assert not (tree / ".venv").exists()


def test_a_python_that_the_pins_are_not_for_is_refused(tree: Path) -> None:
    python = _python(tree / "python", "3.13")
    done = _set_up(tree, python, "cpu")
    assert done.returncode == 1
    assert f"PYTHON={python} is 3.13; allowed is Python 3.11 or 3.12" in done.stderr
    assert (tree / ".venv/bin/python").exists()


def test_a_set_of_requirements_that_there_is_not_is_refused(tree: Path) -> None:
    done = _set_up(tree, None, "gpu")
    assert done.returncode == 1 and "got 'gpu', allowed is cpu or cpu-dev" in done.stderr
