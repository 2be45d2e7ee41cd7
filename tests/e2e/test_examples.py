"""The programs in examples/ run as they are and print what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Server
from valuemodels.contract.value_config import read_value_config

pytestmark = pytest.mark.engine

EXAMPLES = Path(__file__).parents[2] / "examples"


def output(*command: str, timeout_s: float = 120) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, env={**os.environ, "PATH": path}, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_curl_asks_with_the_slider_at_three_places(server: Server) -> None:
    lines = output(str(EXAMPLES / "curl.sh"), server.url).splitlines()
    answers = dict(line.split(": ", 1) for line in lines if line.startswith("positivity "))
    assert len(answers) == 3 and len(set(answers.values())) == 3


def test_the_openai_package_tells_what_weights_did(server: Server) -> None:
    text = output(sys.executable, str(EXAMPLES / "openai_package.py"), server.url)
    assert re.search(r"cost \d+\.\d\d nats; did for each objective: {'positivity'", text)


def test_a_slider_is_moved_while_the_text_streams(server: Server) -> None:
    text = output(sys.executable, str(EXAMPLES / "slider_while_streaming.py"), server.url)
    assert re.search(r"\[-1 from token \d+\]", text)
    weights = [
        float(weight) for weight in re.findall(r"^from token \d+: {'positivity': (-?[\d.]+)", text, re.MULTILINE)
    ]
    assert weights == [1.0, -1.0]


@pytest.mark.slow
def test_an_objective_of_ones_own_becomes_a_checkpoint(tmp_path: Path) -> None:
    """The whole of training on the real engine: rollouts, an own reward with parameters, fit, calibration, export."""
    folder = tmp_path / "run"
    text = output(str(EXAMPLES / "own_objective" / "train.sh"), "4", str(folder), timeout_s=400)
    assert f"serve it: mavis serve --values {folder}/values" in text
    (objective,) = read_value_config(folder / "values").objectives
    assert (objective.name, objective.reward) == ("questions", 'questions:Questions {"most": 2}')
