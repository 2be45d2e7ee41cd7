"""Prometheus reads the real server: the rules are sound, and every panel of the dashboard shows something."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.cluster.child import free_port
from tests.e2e.conftest import Server
from tests.e2e.test_http import CHAT, MESSAGES
from tests.e2e.test_live_control import patch, running

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
BOARD: dict[str, Any] = json.loads((MONITORING / "grafana" / "mavis.json").read_text(encoding="utf-8"))
EXPRESSIONS = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
ALERTS = re.findall(r"[a-z]+[:_][a-z_]+", (MONITORING / "alerts.yml").read_text(encoding="utf-8"))

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="needs Prometheus (Debian: apt-get install prometheus)"
    ),
]


@pytest.fixture(scope="module")
def traffic(server: Server) -> None:
    """What the dashboard tells of: guided and plain requests, a change, a refusal by the gate and an error."""
    with httpx.Client(base_url=server.url, timeout=60) as http:
        with running(server, "watched", stream=True, objective_weights={"positivity": 1.0}, max_tokens=200):
            assert patch(http, "watched", {"objective_weights": {"positivity": -1.0}}).status_code == 200
        body = {"messages": MESSAGES, "max_tokens": 16}
        for scoring in ("exact", "fast"):
            asked = {**body, "objective_weights": {"positivity": 1.0}, "scoring": scoring}
            assert http.post(CHAT, json=asked).status_code == 200
        assert http.post(CHAT, json=body).status_code == 200
        assert http.post(CHAT, json={**body, "beta": -1}).status_code == 400
        assert http.post(CHAT, json=body, headers={"X-Large": "x" * 40_000}).status_code == 431


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One that reads the server every second, with the rules that ship."""
    folder = tmp_path_factory.mktemp("prometheus")
    for name in ("prometheus.yml", "alerts.yml"):
        text = (MONITORING / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace("server:8000", server.url.split("//")[1]).replace("15s", "1s"))
    port = free_port()
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            _until(lambda: _answers(http), "Prometheus does not start")
            yield http
    finally:
        process.terminate()
        process.wait(10)


def _answers(http: httpx.Client) -> bool:
    try:
        return bool(http.get("/api/v1/query", params={"query": 'up{job="mavis"} == 1'}).json()["data"]["result"])
    except (httpx.TransportError, KeyError, ValueError):
        return False


def _until(holds: Any, what: str, patience_s: float = 30) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_every_panel_shows_something(prometheus: httpx.Client, traffic: None) -> None:
    empty: list[str] = EXPRESSIONS

    def are_there() -> bool:
        nonlocal empty
        empty = [expression for expression in EXPRESSIONS if not _found(prometheus, expression)]
        return not empty

    try:
        _until(are_there, "")
    except AssertionError:
        pytest.fail(f"no data for {empty}")


def _found(http: httpx.Client, expression: str) -> list[Any]:
    filled = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
    answer = http.get("/api/v1/query", params={"query": filled}).json()
    assert answer["status"] == "success", (filled, answer)
    found: list[Any] = answer["data"]["result"]
    return found


def test_no_alert_is_about_a_metric_that_is_not_there(prometheus: httpx.Client, traffic: None) -> None:
    """A misspelt one would never fire, and nobody would notice."""
    names = set(prometheus.get("/api/v1/label/__name__/values").json()["data"])
    assert {name for name in ALERTS if name.startswith(("mavis_", "vllm:"))} <= names
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 6 and all(rule["health"] in ("ok", "unknown") for rule in rules)
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_the_rules_pass_promtool() -> None:
    checked = subprocess.run(
        ["promtool", "check", "rules", MONITORING / "alerts.yml"], check=False, capture_output=True
    )
    assert checked.returncode == 0, checked.stderr
