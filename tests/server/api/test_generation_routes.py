"""`PATCH` and `GET /v1/generations/{id}` over a fake engine: statuses, ownership, what is taken over, what is told."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.server.kit import LIMITS, FakeEngine, api_keys, as_key, catalogue, events, eventually, make_app
from valuemodels.contract.guidance import ChoiceName
from valuemodels.contract.policy import Bounds

TOKEN = "my-own-generation-token"
MINE = {"X-Generation-Token": TOKEN}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
WEIGHTS = {"objective_weights": {"positivity": 1.0}}
URL = "/v1/generations/chatcmpl-mine"
ENDLESS = 10**6


def over(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


@asynccontextmanager
async def started(
    engine: FakeEngine, app: FastAPI | None = None, tokens: int = ENDLESS, **fields: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, "asyncio.Task[httpx.Response]"]]:
    """A client, and its generation "chatcmpl-mine" under way."""
    engine.tokens = tokens
    app = app or make_app(engine)
    async with over(app) as http:
        headers = {"X-Request-Id": "mine", **MINE, "Authorization": "Bearer secret-a"}
        body = {**CHAT, **WEIGHTS, **fields}
        call = asyncio.create_task(http.post("/v1/chat/completions", json=body, headers=headers))
        await eventually(lambda: engine.known.get("chatcmpl-mine", 0) > engine.overshoot)
        try:
            yield http, call
        finally:
            engine.tokens, engine.failure = 0, None
            await asyncio.wait([call])
            await eventually(lambda: len(app.state.mavis.registry) == 0)


async def test_a_change_is_answered_once_the_worker_has_taken_it_over(engine: FakeEngine) -> None:
    async with started(engine) as (http, _):
        answer = await http.patch(URL, json={"objective_weights": {"positivity": -1}, "beta": 2}, headers=MINE)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body == {
            "id": "chatcmpl-mine",
            "effective_from_token": body["effective_from_token"],
            "choices": [{"index": 0, "effective_from_token": body["effective_from_token"]}],
        }
        assert body["effective_from_token"] > 0
        ((changes, _, _),) = engine.exchanges
        wire = {"generation_id": "chatcmpl-mine", "choice": None}
        assert changes == [{**wire, "objective_weights": {"positivity": -1.0}, "beta": 2.0}]


async def test_get_tells_what_holds_now_and_what_held_before(engine: FakeEngine) -> None:
    async with started(engine) as (http, _):
        await http.patch(URL, json={"objective_weights": {"positivity": -1}, "kl_budget": 0.5}, headers=MINE)
        await eventually(lambda: len(engine.settings["chatcmpl-mine"][ChoiceName(0, 0)]) > 1)
        await asyncio.sleep(0.1)
        state = (await http.get(URL, headers=MINE)).json()
        (choice,) = state.pop("choices")
        assert state == {"id": "chatcmpl-mine", "object": "generation", "status": "running"}
        block = choice["mavis"]
        assert (choice["index"], choice["finished"]) == (0, False)
        assert (block["objective_weights"]["positivity"], block["beta"], block["kl_budget"]) == (-1.0, 1.0, 0.5)
        assert [token["token_id"] for token in block["tokens"]] == list(range(len(block["tokens"])))
        assert [entry["objective_weights"]["positivity"] for entry in block["steering"]] == [1.0, -1.0]
        await http.patch(URL, json={"objective_weights": None, "kl_budget": None}, headers=MINE)
        block = (await http.get(URL, headers=MINE)).json()["choices"][0]["mavis"]
        assert (block["objective_weights"]["positivity"], block["kl_budget"]) == (0.0, None)


async def test_a_stream_tells_which_tokens_had_which_weights(engine: FakeEngine) -> None:
    async with started(engine, tokens=80, stream=True, return_values=True) as (http, call):
        answer = await http.patch(URL, json={"objective_weights": {"positivity": -1}}, headers=MINE)
        chunks = events((await call).text)
    assert chunks[0]["generation_token"] == TOKEN
    blocks = [block for chunk in chunks for choice in chunk["choices"] if (block := choice.get("mavis"))]
    steering = [entry for block in blocks for entry in block.get("steering", [])]
    assert [entry["objective_weights"]["positivity"] for entry in steering] == [1.0, -1.0]
    assert 0 < steering[1]["from_token"] <= answer.json()["effective_from_token"] + 2
    assert sum(len(block.get("tokens", [])) for block in blocks) == 80
    assert blocks[-1]["objective_weights"]["positivity"] == -1.0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_plain_generation_costs_no_call_until_it_is_steered(engine: FakeEngine, stream: bool) -> None:
    async with started(engine, tokens=80, stream=stream, objective_weights={"positivity": 0}) as (http, call):
        assert (await http.get(URL, headers=MINE)).status_code == 200
        assert engine.calls == []
        assert (await http.patch(URL, json={"beta": 2}, headers=MINE)).status_code == 200
        answer = await call
        final = (events(answer.text)[-2] if stream else answer.json())["choices"][0]
        assert final["mavis"]["beta"] == 2.0
    assert engine.dropped == ["chatcmpl-mine"]
    assert len(engine.changed) == 0


async def test_a_token_alone_makes_a_request_steerable(engine: FakeEngine) -> None:
    async with over(make_app(engine)) as http:
        answer = await http.post("/v1/chat/completions", json=CHAT, headers=MINE)
        assert answer.json()["generation_token"] == TOKEN
        url = f"/v1/generations/{answer.json()['id']}"
        assert (await http.get(url, headers=MINE)).json()["status"] == "finished"
        nothing = await http.post("/v1/chat/completions", json=CHAT)
        assert "generation_token" not in nothing.json()
        assert (await http.get(f"/v1/generations/{nothing.json()['id']}")).status_code == 404
    assert engine.calls == []


async def test_afterwards_it_can_be_read_and_not_changed(engine: FakeEngine) -> None:
    async with over(make_app(engine)) as http:
        body = {**CHAT, **WEIGHTS, "n": 2, "return_values": "candidates"}
        answer = (await http.post("/v1/chat/completions", json=body)).json()
        url, headers = f"/v1/generations/{answer['id']}", {"X-Generation-Token": answer["generation_token"]}
        state = (await http.get(url, headers=headers)).json()
        assert state["status"] == "finished"
        for told, kept in zip(answer["choices"], state["choices"], strict=True):
            assert kept["finished"]
            assert kept["mavis"]["tokens"] == told["mavis"]["tokens"]
            assert kept["mavis"]["kl"] == told["mavis"]["kl"]
        changed = await http.patch(url, json={"beta": 1}, headers=headers)
        assert changed.status_code == 409
        assert changed.json()["error"]["type"] == "ConflictError"


async def test_strangers_are_refused_and_the_unknown_is_unknown(engine: FakeEngine) -> None:
    async with started(engine) as (http, _):
        headers = {"X-Generation-Token": "x" * 20, "Authorization": "Bearer key-a"}
        for answer in (await http.get(URL, headers=headers), await http.patch(URL, json={"beta": 0}, headers=headers)):
            assert answer.status_code == 403
            assert answer.json()["error"]["type"] == "PermissionDeniedError"
        for method in ("GET", "PATCH"):
            answer = await http.request(method, "/v1/generations/no/such id", json={"beta": 1}, headers=MINE)
            assert answer.status_code == 404
            assert answer.json()["error"]["param"] == "id"
    assert not [change for changes, _, _ in engine.exchanges for change in changes]


async def test_with_api_keys_the_key_that_started_it_decides(engine: FakeEngine) -> None:
    async with started(engine, make_app(engine, keys=api_keys(a={}, b={}))) as (http, _):
        assert (await http.patch(URL, json={"beta": 1}, headers=MINE)).status_code == 401
        assert (await http.patch(URL, json={"beta": 1}, headers={**MINE, **as_key("b")})).status_code == 403
        assert (await http.patch(URL, json={"beta": 1}, headers=as_key("a"))).status_code == 200


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"objective_weights": {"humour": 1}}, "objective_weights.humour", "positivity, simplicity"),
    ({"objective_weights": {"humour": None}}, "objective_weights.humour", "positivity, simplicity"),
    ({"objective_weights": {"positivity": 2.5}}, "objective_weights.positivity", "-2 to 2"),
    ({"objective_weights": {"simplicity": 1.5}}, "objective_weights.simplicity", "-1 to 1"),
    ({"objective_weights": {"positivity": "1"}}, "objective_weights.positivity", "-2 to 2"),
    ({"objective_weights": {"positivity": 10**400}}, "objective_weights.positivity", "-2 to 2"),
    ({"objective_weights": [1]}, "objective_weights", "an object"),
    ({"beta": -1}, "beta", "from 0"),
    ({"beta": True}, "beta", "from 0"),
    ({"kl_budget": 0}, "kl_budget", "above 0"),
    ({"kl_buget": 1}, "kl_buget", "kl_budget"),
    ({"obj_weights": {}}, "obj_weights", "objective_weights"),
    ({"candidates": 3, "beta": 1}, "candidates", "start to end"),
    ({"temperature": 3, "beta": 1}, "temperature", "one of objective_weights"),
    ({"beta": 1, "choice": 1}, "choice", "from 0 to 0"),
    ({"beta": 1, "choice": -1}, "choice", "from 0 to 0"),
    ({"beta": 1, "choice": None}, "choice", "leaving the field out"),
    ({"beta": 1, "choice": True}, "choice", "from 0 to 0"),
]


NO_CHANGES = ("", "[1]", "{", '{"beta": NaN}', "{}", '{"choice": 0}', "[" * 50_000, '{"a":' + "1" * 70_000 + "}")


async def test_bad_changes_name_field_value_and_what_is_allowed(engine: FakeEngine) -> None:
    async with started(engine) as (http, _):
        for body, param, allowed in BAD:
            answer = await http.patch(URL, json=body, headers=MINE)
            assert answer.status_code == 400, (body, answer.text)
            error = answer.json()["error"]
            assert error["param"] == param and allowed in error["message"], (body, error)
        for content in (
            "",
            "[1]",
            "{",
            '{"beta": NaN}',
            "{}",
            '{"choice": 0}',
            "[" * 100_000,
            '{"a":' + "1" * 70_000 + "}",
        ):
            answer = await http.patch(URL, content=content, headers=MINE)
            assert answer.status_code == 400, content[:20]
            assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert not [change for changes, _, _ in engine.exchanges for change in changes]


async def test_a_bad_token_is_refused_before_the_engine_hears_of_it(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for fields in ({}, WEIGHTS):
        answer = await http.post(
            "/v1/chat/completions", json={**CHAT, **fields}, headers={"X-Generation-Token": "short"}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "X-Generation-Token"
    refused = await http.post("/v1/chat/completions", json={**CHAT, "use_beam_search": True, "n": 2}, headers=MINE)
    assert refused.json()["error"]["param"] == "use_beam_search"
    assert engine.params == []


async def test_one_choice_of_several_prompts_is_steered(engine: FakeEngine) -> None:
    engine.tokens = 60
    async with over(make_app(engine)) as http:
        headers = {"X-Request-Id": "mine", **MINE}
        body = {"prompt": ["a", "b"], "n": 2, **WEIGHTS}
        call = asyncio.create_task(http.post("/v1/completions", json=body, headers=headers))
        await eventually(lambda: "cmpl-mine" in engine.known)
        answer = await http.patch("/v1/generations/cmpl-mine", json={"beta": 2, "choice": 3}, headers=MINE)
        assert [choice["index"] for choice in answer.json()["choices"]] == [3]
        ended = await http.patch("/v1/generations/cmpl-mine", json={"beta": 2, "choice": 4}, headers=MINE)
        assert "from 0 to 3" in ended.json()["error"]["message"]
        state = (await http.get("/v1/generations/cmpl-mine", headers=MINE)).json()
        assert [choice["mavis"]["beta"] for choice in state["choices"]] == [1.0, 1.0, 1.0, 2.0]
        whole = (await call).json()
    assert [choice["mavis"]["beta"] for choice in whole["choices"]] == [1.0, 1.0, 1.0, 2.0]


async def test_a_change_after_the_last_sampled_token_is_a_409(engine: FakeEngine) -> None:
    """The worker is ahead of what the client has seen; it used to be answered with a token that never comes."""
    engine.overshoot = 0
    async with started(engine) as (http, _):
        assert (await http.patch(URL, json={"beta": 2}, headers=MINE)).status_code == 200
        engine.tokens = engine.known["chatcmpl-mine"]
        refused = await http.patch(URL, json={"beta": 3}, headers=MINE)
    assert refused.status_code == 409, refused.text
    assert "has ended" in refused.json()["error"]["message"]


async def test_null_is_the_operators_default() -> None:
    engine = FakeEngine()
    app = make_app(engine, catalogue(default_weights={"positivity": 0.5}, default_beta=3.0))
    async with started(engine, app, beta=1) as (http, _):
        await http.patch(URL, json={"objective_weights": {"positivity": None}, "beta": None}, headers=MINE)
        block = (await http.get(URL, headers=MINE)).json()["choices"][0]["mavis"]
        assert (block["objective_weights"]["positivity"], block["beta"]) == (0.5, 3.0)


async def test_an_engine_that_fails_is_a_500_that_keeps_the_reason_to_itself(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(engine) as (http, _):
        engine.failure = RuntimeError("worker gone: /a/path/of/the/server")
        answer = await http.patch(URL, json={"beta": 1}, headers=MINE)
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "the engine did not answer"
        assert "/a/path/of/the/server" in caplog.text, "the reason is the operator's"


async def test_every_change_stands_in_the_audit_log_with_who_what_and_when(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mavis.audit")
    async with started(engine) as (http, _):
        await http.patch(URL, json={"beta": 2}, headers=MINE)
        await http.patch(URL, json={"beta": 3}, headers={"X-Generation-Token": "somebody else's token"})
    taken, refused = [json.loads(record.getMessage()) for record in caplog.records if record.name == "mavis.audit"]
    assert taken["event"] == "change" and taken["generation"] == "chatcmpl-mine" and taken["by"].startswith("token:")
    assert taken["address"].startswith("127.0.0.1:") and taken["at"].startswith("20") and taken["refused"] is None
    assert taken["fields"] == {"beta": 2.0} and taken["effective_from_token"] >= 0
    assert refused["refused"] == "NotOwnerError"
    assert TOKEN not in caplog.text and "somebody" not in caplog.text


async def test_a_strangers_refused_changes_cannot_fill_the_log(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mavis.audit")
    async with started(engine) as (http, _):
        for _ in range(200):
            await http.patch(URL, json={"beta": 3}, headers={"X-Generation-Token": "somebody else's token"})
    assert 0 < len([record for record in caplog.records if record.name == "mavis.audit"]) < 60


async def test_who_shows_nothing_learns_nothing(engine: FakeEngine) -> None:
    """403 for ids that live and 404 for others told strangers which ones live."""
    async with started(engine) as (http, _):
        for method in ("GET", "PATCH"):
            live = await http.request(method, URL, json={"beta": 1})
            unknown = await http.request(method, URL.replace("mine", "none"), json={"beta": 1})
            assert live.status_code == unknown.status_code == 404
            assert live.text.replace("mine", "none") == unknown.text


async def test_a_change_that_weight_times_beta_does_not_allow_is_refused() -> None:
    """Each of the two is allowed by itself, and they come in two changes."""
    engine = FakeEngine()
    app = make_app(engine, catalogue(bounds={"positivity": Bounds(-1, 1)}))
    async with started(engine, app, objective_weights={"positivity": 1}) as (http, _):
        refused = await http.patch(URL, json={"beta": 2}, headers=MINE)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "beta")
        half = {"objective_weights": {"positivity": 0.5}, "beta": 2}
        assert (await http.patch(URL, json=half, headers=MINE)).status_code == 200


async def test_a_long_prompt_cannot_be_guided_later_either(engine: FakeEngine) -> None:
    """Its first change would have value models read all of it in one step."""
    app = make_app(engine)
    app.state.openai_serving_chat.prompt_tokens = LIMITS.max_exact_tokens + 1
    async with started(engine, app, objective_weights={}, n=3) as (http, _):
        refused = await http.patch(URL, json={"objective_weights": {"positivity": 1}}, headers=MINE)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "objective_weights")
        assert "exact scoring" in refused.json()["error"]["message"]
        assert (await http.patch(URL, json={"kl_budget": 1}, headers=MINE)).status_code == 200


async def test_a_trace_is_told_in_parts_where_it_is_long(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.generations.control.MAX_TOLD_TOKENS", 3)
    async with started(engine, tokens=8) as (http, call):
        await call
        told, start = [], 0
        while start is not None:
            (choice,) = (await http.get(URL, params={"from_token": start}, headers=MINE)).json()["choices"]
            told.append([token["token_id"] for token in choice["mavis"]["tokens"]])
            start = choice.get("next_token")
        assert told == [[0, 1, 2], [3, 4, 5], [6, 7]]
        refused = await http.get(URL, params={"from_token": -1}, headers=MINE)
        assert refused.status_code == 400 and "from_token" in refused.text
