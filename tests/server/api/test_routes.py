"""The routes over a fake engine: what goes to the engine, what comes back, and what happens when somebody leaves."""

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.server.kit import FakeEngine, catalogue, events, eventually, make_app
from valuemodels.contract.guidance import EXTRA_ARGS_KEY

CHAT_PATH = "/v1/chat/completions"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
WEIGHTS = {"objective_weights": {"positivity": 1.0}}
PLAIN = [{}, {"objective_weights": {"positivity": 0}}, {**WEIGHTS, "beta": 0}, {"candidates": 5, "kl_budget": 1}]


def over(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", PLAIN)
async def test_a_request_without_weights_is_vllms_alone(
    http: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], stream: bool
) -> None:
    """No values in the answer, no call to the workers; without any field of ours, nothing of ours at all."""
    answer = await http.post(CHAT_PATH, json={**CHAT, **fields, "stream": stream})
    assert answer.status_code == 200
    assert "mavis" not in answer.text
    assert ("generation_token" in answer.text) == bool(fields)
    assert [params.extra_args is None for params in engine.params] == [not fields]
    assert engine.calls == []


async def test_zeros_against_the_operators_default_are_sent_and_say_nothing() -> None:
    """Left out, the worker would apply the default."""
    engine = FakeEngine()
    async with over(make_app(engine, catalogue(default_weights={"positivity": 0.5}))) as http:
        zero = await http.post(CHAT_PATH, json={**CHAT, "objective_weights": {"positivity": 0}})
        silent = await http.post(CHAT_PATH, json=CHAT)
    guidance = engine.params[0].extra_args[EXTRA_ARGS_KEY]
    assert guidance.weights == {"positivity": 0}
    assert "mavis" not in zero.text
    assert silent.json()["choices"][0]["mavis"]["objective_weights"] == {"positivity": 0.5, "simplicity": 0.0}


async def test_a_guided_answer_has_its_totals(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await http.post(CHAT_PATH, json={**CHAT, **WEIGHTS, "n": 2, "beta": 0.5, "candidates": 7})
    assert answer.status_code == 200
    for choice in answer.json()["choices"]:
        assert choice["mavis"] == {
            "objective_weights": {"positivity": 1.0, "simplicity": 0.0},
            "beta": 0.5,
            "scoring": "exact",
            "checkpoint": "test-1",
            "kl": 6 / 8,
            "values": {"positivity": 1.5, "simplicity": -1.5},
            "fallback_tokens": 0,
        }
    guidance = engine.params[0].extra_args[EXTRA_ARGS_KEY]
    assert (guidance.beta, guidance.candidates, guidance.trace) == (0.5, 7, "totals")
    assert guidance.generation_id == answer.json()["id"]
    assert len(engine.calls) == 1


async def test_values_of_a_plain_request_can_be_asked_for(http: httpx.AsyncClient) -> None:
    answer = await http.post(CHAT_PATH, json={**CHAT, "return_values": True})
    block = answer.json()["choices"][0]["mavis"]
    assert block["objective_weights"] == {"positivity": 0.0, "simplicity": 0.0}
    assert [token["token_id"] for token in block["tokens"]] == [0, 1, 2, 3]


async def test_prompts_and_choices_are_told_apart(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = {"prompt": ["a", "b"], "n": 2, **WEIGHTS}
    answer = await http.post("/v1/completions", json=body)
    assert [choice["mavis"]["kl"] for choice in answer.json()["choices"]] == [6 / 8] * 4
    assert [params.extra_args[EXTRA_ARGS_KEY].prompt_index for params in engine.params] == [0, 1]
    ((_, read, drop),) = engine.exchanges
    everything = (0, [0, 1, 2, 3])
    assert read == {answer.json()["id"]: dict.fromkeys(("0:0", "0:1", "1:0", "1:1"), everything)}
    assert drop == [answer.json()["id"]]


async def test_an_echo_without_an_answer_has_no_tokens(http: httpx.AsyncClient) -> None:
    """vLLM samples one token for it and does not return it."""
    body = {"prompt": "a", "echo": True, "max_tokens": 0, **WEIGHTS, "return_values": True}
    block = (await http.post("/v1/completions", json=body)).json()["choices"][0]["mavis"]
    assert block["tokens"] == []
    assert block["kl"] == 0.0


@pytest.mark.parametrize("path", [CHAT_PATH, "/v1/completions"])
async def test_a_stream_has_tokens_totals_usage_and_its_end(http: httpx.AsyncClient, path: str) -> None:
    body = {**(CHAT if path == CHAT_PATH else {"prompt": ["a", "b"]}), **WEIGHTS}
    body |= {"stream": True, "n": 2, "return_values": "candidates", "stream_options": {"include_usage": True}}
    answer = await http.post(path, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    told: dict[int, list[int]] = {}
    totals = {}
    for event in events(answer.text):
        for choice in event["choices"]:
            block = choice.get("mavis", {})
            told.setdefault(choice["index"], []).extend(token["token_id"] for token in block.get("tokens", []))
            if choice["finish_reason"]:
                totals[choice["index"]] = block["kl"]
    choices = range(2 if path == CHAT_PATH else 4)
    assert told == {i: [0, 1, 2, 3] for i in choices}
    assert totals == dict.fromkeys(choices, 6 / 8)
    assert '"usage"' in answer.text


async def test_a_chosen_id_is_the_generations_and_live_only_once(engine: FakeEngine) -> None:
    app = make_app(engine)
    engine.tokens = 200
    headers = {"X-Request-Id": "mine"}
    async with over(app) as http:
        running = asyncio.create_task(http.post(CHAT_PATH, json={**CHAT, **WEIGHTS}, headers=headers))
        await eventually(lambda: app.state.mavis.registry.running("chatcmpl-mine") is not None)
        second = await http.post(CHAT_PATH, json={**CHAT, **WEIGHTS, "stream": True}, headers=headers)
        other_route = await http.post("/v1/completions", json={"prompt": "a", **WEIGHTS}, headers=headers)
        first = await running
        third = await http.post(CHAT_PATH, json={**CHAT, **WEIGHTS}, headers=headers)
    assert second.status_code == 409
    assert second.json()["error"] == {
        "message": "X-Request-Id: the generation chatcmpl-mine is still running, choose another id",
        "type": "ConflictError",
        "param": "X-Request-Id",
        "code": 409,
    }
    assert first.json()["id"] == "chatcmpl-mine"
    assert [answer.status_code for answer in (first, other_route, third)] == [200, 200, 200]
    assert len(app.state.mavis.registry) == 0


async def test_lost_values_are_a_500_and_the_id_is_free_once_the_worker_answers_again(engine: FakeEngine) -> None:
    app = make_app(engine)
    engine.failure = RuntimeError("worker gone")
    async with over(app) as http:
        answer = await http.post(CHAT_PATH, json={**CHAT, **WEIGHTS})
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "the values of this generation could not be read from the engine"
        engine.failure = None
        await eventually(lambda: len(app.state.mavis.registry) == 0)


async def test_an_error_of_vllms_passes_and_the_id_is_free(engine: FakeEngine) -> None:
    app = make_app(engine)

    async def refuse(request: Any, raw_request: Any) -> Any:
        raise ValueError("the prompt is too long")

    app.state.openai_serving_chat.create_chat_completion = refuse
    async with over(app) as http:
        answer = await http.post(CHAT_PATH, json={**CHAT, **WEIGHTS})
    assert answer.status_code == 400
    assert "too long" in answer.json()["error"]["message"]
    await eventually(lambda: len(app.state.mavis.registry) == 0)


@pytest.mark.parametrize("n", [-1, 0, 10**9])
async def test_a_number_of_choices_that_vllm_refuses_is_its_error_and_the_id_is_free(
    engine: FakeEngine, n: int
) -> None:
    app = make_app(engine)

    async def refuse(request: Any, raw_request: Any) -> Any:
        raise ValueError(f"n must be sensible, got {request.n}")

    app.state.openai_serving_chat.create_chat_completion = refuse
    async with over(app) as http:
        answer = await asyncio.wait_for(http.post(CHAT_PATH, json={**CHAT, **WEIGHTS, "n": n}), 5)
    assert answer.status_code == 400 and f"got {n}" in answer.json()["error"]["message"]
    await eventually(lambda: len(app.state.mavis.registry) == 0)


class Leaver:
    """An ASGI client that goes away after some events of the answer."""

    def __init__(self, body: dict[str, Any], after_events: int) -> None:
        self.request = json.dumps(body).encode()
        self.after_events = after_events
        self.gone = asyncio.Event()
        self.sent_body = False

    async def receive(self) -> MutableMapping[str, Any]:
        if not self.sent_body:
            self.sent_body = True
            return {"type": "http.request", "body": self.request, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            self.after_events -= 1
            if self.after_events == 0:
                self.gone.set()

    async def call(self, app: FastAPI, spec_version: str) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": spec_version},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": CHAT_PATH,
            "raw_path": CHAT_PATH.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        await app(scope, self.receive, self.send)


@pytest.fixture
def endless(engine: FakeEngine) -> FastAPI:
    engine.tokens = 10**6
    return make_app(engine)


@pytest.mark.parametrize("interval", [0, 1])
async def test_a_client_that_leaves_a_stream_frees_its_slot_its_trace_and_its_id(
    engine: FakeEngine, endless: FastAPI, interval: int
) -> None:
    endless.state.args.sse_keep_alive_interval = interval
    leaver = Leaver({**CHAT, **WEIGHTS, "stream": True, "return_values": True}, after_events=3)
    await asyncio.wait_for(leaver.call(endless, "2.3"), 10)
    await eventually(lambda: len(endless.state.mavis.registry) == 0)
    assert len(engine.aborted) == 1
    assert len(engine.dropped) == 1
    assert engine.known == {}


async def test_a_client_that_leaves_before_the_answer_does_too(engine: FakeEngine, endless: FastAPI) -> None:
    leaver = Leaver({**CHAT, **WEIGHTS}, after_events=0)
    call = asyncio.create_task(leaver.call(endless, "2.3"))
    await eventually(lambda: bool(engine.known))
    leaver.gone.set()
    await asyncio.wait_for(call, 10)
    await eventually(lambda: len(endless.state.mavis.registry) == 0)
    assert len(engine.aborted) == 1
    assert engine.known == {}


async def test_objectives_are_listed(http: httpx.AsyncClient) -> None:
    listing = (await http.get("/v1/objectives")).json()
    assert listing["object"] == "list"
    assert listing["data"][1] == {
        "id": "simplicity",
        "object": "objective",
        "description": "how much simplicity",
        "default": 0.0,
        "bounds": [-1.0, 1.0],
        "floor": None,
        "scorings": ["exact"],
        "checkpoint": "test-1",
        "reward": "simplicity-reward",
        "metrics": {"mse": 0.5},
        "fast_metrics": None,
    }


async def test_ready_means_a_healthy_engine_with_value_models(engine: FakeEngine) -> None:
    app = make_app(engine)
    async with over(app) as http:
        assert (await http.get("/ready")).json() == {"status": "ready"}
        app.state.mavis = None
        assert (await http.get("/ready")).status_code == 503
        engine.errored = True
        answer = await http.get("/ready")
        assert answer.status_code == 503
        assert answer.json()["reason"] == "the engine is not healthy"
