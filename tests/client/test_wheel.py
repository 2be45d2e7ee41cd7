"""The SDK's wheel in an empty environment of every Python that it is for: its examples run, and its types are seen."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.fake_server import FakeServer
from tests.client.test_package import EXAMPLES

CLIENT = Path(__file__).parents[2] / "client"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TYPED = "from mavis_client import MavisClient\nreveal_type(MavisClient('http://x').objectives)\n"

pytestmark = pytest.mark.slow


def interpreter(version: str) -> Path:
    """On the path, or among pyenv's."""
    roots = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python")
    for found in (*map(str, roots), shutil.which(f"python{version}")):
        if found and subprocess.run([found, "-c", "import ensurepip"], capture_output=True).returncode == 0:
            return Path(found)
    pytest.skip(f"there is no Python {version} here")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(CLIENT, folder / "client", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.mark.parametrize("version", PYTHONS)
def test_the_examples_run_in_an_empty_environment(
    version: str, wheel: Path, server: FakeServer, tmp_path: Path
) -> None:
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([interpreter(version), "-m", "venv", tmp_path / "venv"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    for example in EXAMPLES:
        code = example.replace("http://127.0.0.1:8000", server.url)
        run = subprocess.run([python, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert run.returncode == 0 and run.stdout and not run.stderr, run.stderr


def test_a_type_checker_sees_the_wheels_types(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(site)},
    )
    assert checked.returncode == 0 and "Any" not in checked.stdout and "Revealed type" in checked.stdout, checked.stdout
