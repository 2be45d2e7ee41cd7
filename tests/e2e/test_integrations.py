"""What other people's tools carry to the real server."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Server
from tests.e2e.test_http import moved

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
BODY = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "model": "smollm2-135m-instruct"}


def open_webui_filter() -> Any:
    """The function as Open WebUI loads it: a module with a class `Filter`."""
    path = ROOT / "deploy" / "integrations" / "open_webui_filter.py"
    spec = importlib.util.spec_from_file_location("open_webui_filter", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Filter()


def inlet(made: Any, **valves: Any) -> dict[str, Any]:
    user = {"id": "u", "valves": made.UserValves(**valves)}
    found: dict[str, Any] = asyncio.run(made.inlet({**BODY}, __user__=user))
    return found


def test_open_webuis_filter_sends_what_a_user_has_set(http: httpx.Client) -> None:
    body = inlet(open_webui_filter(), objective_weights='{"positivity": 0.5}', profile="plain", beta=2.0)
    answer = http.post("/v1/chat/completions", json=body).json()
    block = answer["choices"][0]["mavis"]
    assert moved(block) == {"positivity": 0.5, "simplicity": 1.0} and block["beta"] == 2.0


def test_open_webuis_filter_leaves_alone_what_it_is_not_for() -> None:
    made = open_webui_filter()
    assert inlet(made) == BODY, "nobody has set anything"
    made.valves.models = "another, third"
    assert inlet(made, profile="plain") == BODY
    with pytest.raises(ValueError, match="allowed is a JSON object"):
        inlet(open_webui_filter(), objective_weights='{"positivity": "much"}')


def test_the_notebook_runs_from_top_to_bottom(server: Server) -> None:
    """Among what it asserts: a text that was steered is written again by its schedule."""
    notebook = json.loads((ROOT / "examples" / "steering.ipynb").read_text(encoding="utf-8"))
    code = "\n\n".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "MAVIS_URL": server.url},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "positivity" in done.stdout
