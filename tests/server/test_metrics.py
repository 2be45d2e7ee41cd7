"""`mavis_*` metrics, read from the registry that `/metrics` serves."""

from typing import Any

import httpx
from prometheus_client import REGISTRY

from server.api.plugin import KNOWN_PARAMS
from server.metrics import WorkerStats
from tests.server.kit import FakeEngine

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ROUTE = "/v1/chat/completions"


def read(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_requests_tokens_kl_values_and_errors_are_counted(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    names: list[tuple[str, dict[str, str]]] = [
        ("mavis_requests_total", {"route": ROUTE, "guided": "true"}),
        ("mavis_requests_total", {"route": ROUTE, "guided": "false"}),
        ("mavis_guided_tokens_total", {}),
        ("mavis_kl_nats_count", {}),
        ("mavis_kl_nats_sum", {}),
        ("mavis_values_count", {"objective": "positivity"}),
        ("mavis_request_errors_total", {"param": "objective_weights"}),
    ]
    before = [read(name, **labels) for name, labels in names]
    good: dict[str, Any] = {**CHAT, "objective_weights": {"positivity": 1}, "n": 2}
    await http.post(ROUTE, json=good)
    await http.post(ROUTE, json={**good, "stream": True})
    await http.post(ROUTE, json=CHAT)
    await http.post(ROUTE, json={**CHAT, "objective_weights": {"a name the client made up": 1}})
    after = [read(name, **labels) for name, labels in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 16, 4, 3.0, 4, 1]


async def test_what_a_client_writes_becomes_no_series(http: httpx.AsyncClient) -> None:
    """A label for each would grow the process and every scrape with every bad request, for ever."""

    def series() -> set[str]:
        (family,) = [family for family in REGISTRY.collect() if family.name == "mavis_request_errors"]
        return {sample.labels["param"] for sample in family.samples}

    before = read("mavis_request_errors_total", param="other")
    for number in range(20):
        body = {**CHAT, f"objective_weights{number}": {}}
        assert (await http.post(ROUTE, json=body)).status_code == 400
    assert read("mavis_request_errors_total", param="other") - before == 20
    assert series() <= KNOWN_PARAMS | {"none", "other"}


async def test_a_long_name_is_not_echoed_whole(http: httpx.AsyncClient) -> None:
    answer = await http.post(ROUTE, json={**CHAT, "objective_weights": {"x" * 60_000: 1}})
    assert answer.status_code == 400 and len(answer.content) < 1000
    assert answer.json()["error"]["param"].startswith("objective_weights.xxx")


def test_the_workers_counters_become_increments() -> None:
    start = read("mavis_value_fallback_rows_total")
    stats = WorkerStats()
    for rows, size in ((3, 10), (3, 20), (5, 5), (1, 5)):  # the last: a worker that started anew
        stats.observe({"value_fallback_rows": rows, "cache_bytes": size})
    assert read("mavis_value_fallback_rows_total") - start == 5
    assert read("mavis_value_cache_bytes") == 5
