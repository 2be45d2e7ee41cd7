"""Other checkpoints in a real server, while a text is written."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ADMIN_KEY, Server
from tests.e2e.test_http import CHAT, MESSAGES, error_of
from tests.e2e.test_live_control import DOWN, UP, patch, running
from valuemodels.contract.value_config import read_value_config
from valuemodels.sources.embedded import EMBEDDED_VALUES

pytestmark = [pytest.mark.engine, pytest.mark.processes]

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
PATH = "/v1/checkpoints"
TOKENS = 480


@pytest.fixture(scope="module", autouse=True)
def folders(values_root: Path) -> None:
    """The shipped checkpoint with one objective by another name, and one without its tensors."""
    ignored = shutil.ignore_patterns("evaluation.json")
    for name in ("renamed", "broken"):
        shutil.copytree(EMBEDDED_VALUES, values_root / name, ignore=ignored)
    config = values_root / "renamed" / "value_config.json"
    content = json.loads(config.read_text().replace('"positivity"', '"sunshine"'))
    config.write_text(json.dumps({**content, "id": "renamed-1"}))
    next((values_root / "broken").glob("*.safetensors")).write_bytes(b"nothing")


def ask(http: httpx.Client, objective: str, scoring: str = "fast") -> httpx.Response:
    body: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 8, "objective_weights": {objective: 1.0}}
    body["scoring"] = scoring
    return http.post(CHAT, json={**body, "return_values": True})


def test_objectives_change_under_a_running_text_that_keeps_its_own(operated: Server) -> None:
    shipped = read_value_config(EMBEDDED_VALUES).id
    with httpx.Client(base_url=operated.url, timeout=120) as http:
        assert http.get(PATH).status_code == http.put(PATH, json={"checkpoints": ["renamed"]}).status_code == 401
        assert http.get(PATH, headers=ADMIN).json()["available"] == sorted(["broken", "renamed", shipped])
        with running(operated, "under-way", stream=True, max_tokens=TOKENS, objective_weights=UP) as text:
            while len(text.arrivals) < 10:
                time.sleep(0.01)
            answer = http.put(PATH, json={"checkpoints": ["renamed"]}, headers=ADMIN)
            before = len(text.arrivals)
            assert answer.status_code == 200, answer.text
            assert [each["id"] for each in answer.json()["data"]] == ["renamed-1"]
            for scoring in ("fast", "exact", "hybrid"):
                assert ask(http, "sunshine", scoring).json()["choices"][0]["mavis"]["checkpoint"] == "renamed-1"
            assert error_of(ask(http, "positivity"))["param"].startswith("objective_weights")
            effective = patch(http, "under-way", {"objective_weights": DOWN}).json()["effective_from_token"]
            assert len(text.arrivals) < TOKENS, "it has to run still"
        names = {each["id"] for each in http.get("/v1/objectives").json()["data"]}
        assert "sunshine" in names and "positivity" not in names
        assert text.steering() == [(0, 1.0), (effective, -1.0)] and effective >= before
        tokens = [token for block in text.blocks() for token in block.get("tokens", [])]
        assert len(tokens) == TOKENS and all("positivity" in token["values"] for token in tokens)
        refused = http.put(PATH, json={"checkpoints": ["broken"]}, headers=ADMIN)
        assert refused.status_code == 400 and error_of(refused)["param"] == "checkpoints"
        assert ask(http, "sunshine").status_code == 200
        assert http.put(PATH, json={"checkpoints": [shipped]}, headers=ADMIN).status_code == 200
        assert ask(http, "positivity").status_code == 200 and ask(http, "sunshine").status_code == 400
