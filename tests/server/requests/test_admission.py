"""What one request may cost: refused before anything of it is registered."""

import tracemalloc
from typing import Any

import httpx
import pytest

from tests.server.kit import LIMITS, FakeEngine, catalogue, eventually, make_app

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
WEIGHTS = {"objective_weights": {"positivity": 1}}

TOO_MUCH: list[tuple[str, dict[str, Any], str, str]] = [
    # route, fields, param, what is allowed
    ("/v1/chat/completions", {**CHAT, "n": 129}, "n", "1 to 128"),
    ("/v1/chat/completions", {**CHAT, **WEIGHTS, "n": 200_000}, "n", "1 to 128"),
    ("/v1/completions", {"prompt": "hi", **WEIGHTS, "n": 2_000_000_000}, "n", "1 to 128"),
    ("/invocations", {"prompt": "hi", "n": 2_000_000_000}, "n", "1 to 128"),
    ("/v1/completions", {"prompt": ["a"] * 11, "n": 100}, "n", "at most 1024"),
    ("/v1/completions", {"prompt": [[1]] * 600, "n": 2}, "n", "at most 1024"),
    (
        "/v1/chat/completions",
        {**CHAT, "objective_weights": {str(i): 1 for i in range(65)}},
        "objective_weights",
        "at most 64",
    ),
    ("/v1/chat/completions", {**CHAT, "return_values": "candidates", "n": 4}, "return_values", "at most 500000"),
    (
        "/v1/completions",
        {"prompt": "a", "return_values": "candidates", "candidates": 64, "max_tokens": 4000, "n": 2},
        "return_values",
        "4000 tokens x 2 choices x 64 candidates",
    ),
    (
        "/v1/completions",
        {"prompt": "a", "return_values": True, "n": 128, "max_tokens": 9999},
        "return_values",
        "4096 tokens x 128",
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("route", "body", "param", "allowed"), TOO_MUCH, ids=lambda part: str(part)[:30])
async def test_too_much_is_refused_and_leaves_nothing_behind(
    engine: FakeEngine, route: str, body: dict[str, Any], param: str, allowed: str, stream: bool
) -> None:
    """`n` of two thousand million was registered before vLLM refused it, and ended the process."""
    app = make_app(engine)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        headers = {"X-Request-Id": "mine", "X-Generation-Token": "x" * 20}
        tracemalloc.start()
        answer = await http.post(route, json={**body, "stream": stream}, headers=headers)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param and allowed in answer.json()["error"]["message"]
        for prefix in ("chatcmpl", "cmpl"):
            assert (await http.get(f"/v1/generations/{prefix}-mine", headers=headers)).status_code == 404
    assert engine.params == [] and engine.calls == [] and len(app.state.mavis.registry) == 0
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("fields", "tokens", "status"),
    [
        (WEIGHTS, LIMITS.max_exact_tokens + 1, 400),
        (WEIGHTS, LIMITS.max_exact_tokens, 200),
        ({"return_values": True}, LIMITS.max_exact_tokens + 1, 400),
        ({}, 10 * LIMITS.max_exact_tokens, 200),
        ({"objective_weights": {"positivity": 0}}, 10 * LIMITS.max_exact_tokens, 200),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_value_models_would_read_for_minutes_is_refused(
    engine: FakeEngine, fields: dict[str, Any], tokens: int, status: int, stream: bool
) -> None:
    """It is read once, whatever the number of choices, while all other clients stand still."""
    app = make_app(engine)
    app.state.openai_serving_chat.prompt_tokens = tokens
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        answer = await http.post("/v1/chat/completions", json={**CHAT, **fields, "n": 4, "stream": stream})
    assert answer.status_code == status, answer.text
    if status == 400:
        assert f"{tokens} tokens" in answer.json()["error"]["message"]
    await eventually(lambda: len(app.state.mavis.registry) == 0)


async def test_all_prompts_of_a_request_count_together(engine: FakeEngine) -> None:
    app = make_app(engine)
    app.state.openai_serving_completion.prompt_tokens = LIMITS.max_exact_tokens // 2 + 1
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        for prompts, status in ((["a"], 200), (["a", "b"], 400)):
            assert (await http.post("/v1/completions", json={"prompt": prompts, **WEIGHTS})).status_code == status


async def test_what_the_operators_defaults_guide_counts_as_well(engine: FakeEngine) -> None:
    app = make_app(engine, catalogue(default_weights={"positivity": 0.5}))
    app.state.openai_serving_chat.prompt_tokens = LIMITS.max_exact_tokens + 1
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 400
