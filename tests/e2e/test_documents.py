"""What a new user is told to type works as it is printed: by the banner, and by the pages, but for the address."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Server

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
TEXT = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/steer.md"))
PYTHON = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
CURL = re.findall(r"^    curl .*?(?:^$)", TEXT, re.DOTALL | re.MULTILINE)


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def at(server: Server, example: str) -> str:
    assert "http://127.0.0.1:8000" in example
    return example.replace("http://127.0.0.1:8000", server.url)


def test_the_curl_line_gets_a_guided_answer(server: Server) -> None:
    (line,) = CURL
    (choice,) = json.loads(output(["bash", "-c", at(server, line)]))["choices"]
    assert choice["mavis"]["objective_weights"]["positivity"] == 1.0


@pytest.mark.parametrize("example", PYTHON, ids=["sdk", "openai"])
def test_a_python_example_prints_answers(server: Server, example: str) -> None:
    assert len(output([sys.executable, "-c", at(server, example)])) > 100


def test_the_banner_holds_the_address_the_objectives_and_a_curl_line_that_works(server: Server) -> None:
    text = server.log.read_text()
    assert server.url in text and "positivity" in text and "simplicity" in text
    start = text.index("curl ")
    lines = text[start:].splitlines()
    command = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.endswith("\\")) + 1])
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0 and '"mavis"' in answer.stdout, answer
