"""The package as others install it: what it names, what it needs, what it says of itself."""

import re
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest

import mavis_client
from tests.client.fake_server import FakeServer

PACKAGE = Path(mavis_client.__file__).parent
EXAMPLES = re.findall(r"```python\n(.*?)```", (PACKAGE.parent / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_every_public_name_exists_and_is_listed_in_order() -> None:
    assert all(hasattr(mavis_client, name) for name in mavis_client.__all__)
    public = {
        name
        for name, value in vars(mavis_client).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("mavis_client")
    }
    assert public <= set(mavis_client.__all__)


def test_the_version_is_stated_once() -> None:
    assert version("mavis-client") == mavis_client.__version__


def test_it_needs_httpx_and_pydantic_alone_and_ships_its_types() -> None:
    needs = [need for need in requires("mavis-client") or [] if "extra ==" not in need]
    assert [need.partition(">")[0] for need in needs] == ["httpx", "pydantic"]
    assert (PACKAGE / "py.typed").exists()


def test_importing_it_brings_in_none_of_our_other_packages() -> None:
    code = "import sys, mavis_client; print(*{name.partition('.')[0] for name in sys.modules})"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    ).stdout.split()
    assert not {"server", "valuemodels", "training", "torch", "vllm", "openai", "transformers"} & set(found)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_of_the_readme_run(example: str, server: FakeServer) -> None:
    assert "http://127.0.0.1:8000" in example
    code = example.replace("http://127.0.0.1:8000", server.url)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout
    assert run.stderr == ""
