"""LiteLLM's proxy, with the configuration that ships, in front of the real server.

The proxy pins versions of its own, so it is installed into an environment of its own: two minutes, and needs a package
registry, which is why this is slow.
"""

import json
import os
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.cluster.child import free_port
from tests.e2e.conftest import Server, wait_for
from tests.e2e.test_http import moved

pytestmark = [pytest.mark.engine, pytest.mark.slow]

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "integrations" / "litellm.yaml"
KEY = "sk-a-key-of-the-test"
DEFAULT_URL = "http://127.0.0.1:8000"
BODY = {"messages": [{"role": "user", "content": "How was your day?"}], "max_tokens": 12, "seed": 3}


@pytest.fixture(scope="module")
def litellm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The proxy's command."""
    folder = tmp_path_factory.mktemp("litellm")
    venv.create(folder, with_pip=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", "litellm[proxy]"]
    subprocess.run(install, check=True, timeout=900, capture_output=True)
    return folder / "bin" / "litellm"


@pytest.fixture(scope="module")
def proxy(server: Server, litellm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("proxy")
    configuration = CONFIGURATION.read_text(encoding="utf-8")
    assert DEFAULT_URL in configuration
    (folder / "litellm.yaml").write_text(configuration.replace(DEFAULT_URL, server.url), encoding="utf-8")
    port = free_port()
    command = [str(litellm), "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "LITELLM_MASTER_KEY": KEY, "LITELLM_TELEMETRY": "False"},
        )
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, headers=headers) as http:
        try:
            assert wait_for(lambda: _answers(http), 120), (folder / "log").read_text()[-3000:]
            yield http
        finally:
            process.kill()
            process.wait()


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/health/liveliness").status_code == 200
    except httpx.TransportError:
        return False


def told(http: httpx.Client, model: str, **fields: Any) -> dict[str, Any]:
    """The `mavis` block, where LiteLLM puts what a provider says beyond OpenAI's answer."""
    answer = http.post("/v1/chat/completions", json={**BODY, "model": model, **fields})
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    block: dict[str, Any] = choice["provider_specific_fields"].get("mavis", {})
    return block


@pytest.mark.parametrize(
    ("model", "fields", "weights"),
    [
        ("mavis", {"objective_weights": {"positivity": -1.0}}, {"positivity": -1.0}),
        ("mavis", {"profile": "plain"}, {"simplicity": 1.0}),
        ("mavis-sunny", {}, {"positivity": 1.0}),
        ("mavis-plain", {}, {"simplicity": 1.0}),
        ("mavis-plain", {"objective_weights": {"positivity": 0.5}}, {"positivity": 0.5}),
    ],
)
def test_weights_and_profiles_reach_the_server(
    proxy: httpx.Client, model: str, fields: dict[str, Any], weights: dict[str, float]
) -> None:
    assert moved(told(proxy, model, **fields)) == weights


def test_what_says_nothing_of_weights_is_not_guided(proxy: httpx.Client) -> None:
    assert told(proxy, "mavis") == {}


def test_a_stream_through_the_proxy_is_the_servers_own(proxy: httpx.Client, http: httpx.Client) -> None:
    weights = {"objective_weights": {"positivity": 1.0}}
    body = {**BODY, "model": "mavis", "stream": True, **weights}
    with proxy.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    deltas = [choice["delta"] for line in lines[:-1] for choice in json.loads(line)["choices"]]
    direct = http.post("/v1/chat/completions", json={**BODY, **weights}).json()
    assert "".join(delta.get("content") or "" for delta in deltas) == direct["choices"][0]["message"]["content"]


def test_a_refusal_names_the_field(proxy: httpx.Client) -> None:
    answer = proxy.post("/v1/chat/completions", json={**BODY, "model": "mavis", "objective_weights": {"positivity": 9}})
    assert answer.status_code == 400
    assert "objective_weights.positivity: got 9, allowed is a number from -2 to 2" in answer.json()["error"]["message"]
