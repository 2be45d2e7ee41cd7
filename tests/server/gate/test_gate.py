"""The gate: what is turned away before anything of it is read, registered or sampled."""

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from limits import parse_many
from prometheus_client import REGISTRY
from starlette.websockets import WebSocket

from server.gate.gate import GateLimits
from tests.server.kit import GATE_LIMITS, FakeEngine, api_keys, as_key, eventually, make_app

PATH = "/v1/chat/completions"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
GUIDED = {**CHAT, "objective_weights": {"positivity": 1}}


def over(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


def limits(**changed: Any) -> GateLimits:
    fields = {name: getattr(GATE_LIMITS, name) for name in GateLimits.__dataclass_fields__}
    return GateLimits(**{**fields, **changed})


def refused(answer: httpx.Response, status: int) -> str:
    """The message of a refusal, which has the envelope's shape."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["code"] == status
    return str(error["message"])


async def test_a_body_beyond_its_limit_is_refused_whether_or_not_it_says_how_long_it_is(engine: FakeEngine) -> None:
    async with over(make_app(engine, gate_limits=limits(max_body_bytes=500))) as http:
        big = json.dumps({**CHAT, "user": "x" * 500}).encode()

        async def pieces() -> Any:
            for at in range(0, len(big), 100):
                yield big[at : at + 100]

        for content in (big, pieces()):
            answer = await http.post(PATH, content=content, headers={"Content-Type": "application/json"})
            assert "allowed are 500" in refused(answer, 400)
        assert (await http.post(PATH, json=CHAT)).status_code == 200
    assert len(engine.params) == 1


async def test_headers_beyond_their_limit_are_refused(engine: FakeEngine) -> None:
    async with over(make_app(engine, gate_limits=limits(max_header_bytes=2000))) as http:
        for answer in (
            await http.post(PATH, json=CHAT, headers={"X-Long": "x" * 2000}),
            await http.post(PATH, json=CHAT, params={"q": "x" * 2000}),
        ):
            assert "allowed are 2000" in refused(answer, 431)
    assert engine.params == []


async def test_a_client_that_leaves_within_its_body_ends_there(engine: FakeEngine) -> None:
    app, sent = make_app(engine), list[Any]()
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b""}
    headers = [(b"content-type", b"application/json")]
    await asyncio.wait_for(app({**scope, "headers": headers, "client": None, "app": app}, receive, send), 5)
    assert engine.params == []


async def test_above_so_many_waiting_sequences_new_requests_are_sent_away(engine: FakeEngine) -> None:
    app = make_app(engine, gate_limits=limits(max_waiting=3))
    engine.first_output_after_s = 0.3
    async with over(app) as http:
        first = asyncio.create_task(http.post(PATH, json={**GUIDED, "n": 3}))
        await eventually(lambda: app.state.mavis_load.waiting == 3)
        answer = await http.post(PATH, json=CHAT)
        assert "3 sequences are waiting" in refused(answer, 429) and int(answer.headers["Retry-After"]) >= 1
        assert (await http.get("/v1/objectives")).status_code == 200, "what costs nothing is still answered"
        assert (await first).status_code == 200
        assert (await http.post(PATH, json=CHAT)).status_code == 200
    assert app.state.mavis_load.waiting == 0


async def test_a_key_is_wanted_and_taken_in_either_clients_way(engine: FakeEngine) -> None:
    async with over(make_app(engine, keys=api_keys(a={}))) as http:
        for headers in ({}, as_key("b"), {"Authorization": "Basic secret-a"}, {"X-Api-Key": "secret-b"}):
            answer = await http.post(PATH, json=CHAT, headers=headers)
            assert "wants an API key" in refused(answer, 401) and "secret" not in answer.text
        for headers in (as_key("a"), {"X-Api-Key": "secret-a"}):
            assert (await http.post(PATH, json=CHAT, headers=headers)).status_code == 200
        assert (await http.get("/ready")).status_code == 200


@pytest.mark.parametrize(("header", "passes"), [(b"Bearer secret-a", True), (b"Bearer wrong", False)])
async def test_a_websocket_wants_the_key_as_well(engine: FakeEngine, header: bytes, passes: bool) -> None:
    """None of our routes is one, but an operator's plugin may bring some."""
    app, sent = make_app(engine, keys=api_keys(a={})), list[Any]()
    app.router.routes = [*app.router.routes]  # the others belong to every test's app

    async def accept(websocket: WebSocket) -> None:
        await websocket.accept()

    app.add_api_websocket_route("/own", accept)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "websocket", "path": "/own", "raw_path": b"/own", "query_string": b"", "subprotocols": []}
    await app({**scope, "headers": [(b"authorization", header)], "app": app}, receive, send)
    assert sent == ["websocket.accept" if passes else "websocket.close"]


async def test_a_key_has_its_share_and_no_more(engine: FakeEngine) -> None:
    keys = api_keys(slow={"rates": tuple(parse_many("2/minute"))}, single={"concurrent": 1}, free={})
    engine.tokens = 40
    async with over(make_app(engine, keys=keys)) as http:
        answers = [await http.post(PATH, json={**CHAT, "n": 1}, headers=as_key("slow")) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert "2 per 1 minute" in refused(answers[2], 429) and 1 <= int(answers[2].headers["Retry-After"]) <= 60
        running = asyncio.create_task(http.post(PATH, json=CHAT, headers=as_key("single")))
        await eventually(lambda: len(engine.params) == 3)
        assert "1 requests at once" in refused(await http.post(PATH, json=CHAT, headers=as_key("single")), 429)
        assert (await http.post(PATH, json=CHAT, headers=as_key("free"))).status_code == 200
        await running
        assert (await http.post(PATH, json=CHAT, headers=as_key("single"))).status_code == 200


async def test_a_stream_counts_until_its_end(engine: FakeEngine) -> None:
    app = make_app(engine, keys=api_keys(single={"concurrent": 1}))
    engine.tokens = 10
    async with over(app) as http:
        assert (await http.post(PATH, json={**CHAT, "stream": True}, headers=as_key("single"))).status_code == 200
        assert app.state.mavis_drain.running == 0


async def test_while_draining_new_requests_are_sent_elsewhere_and_running_ones_end(engine: FakeEngine) -> None:
    app = make_app(engine)
    engine.tokens = 30
    async with over(app) as http:
        running = asyncio.create_task(http.post(PATH, json={**GUIDED, "stream": True}))
        await eventually(lambda: app.state.mavis_drain.running == 1)
        app.state.mavis_drain.begin()
        answer = await http.post(PATH, json=CHAT)
        assert "about to stop" in refused(answer, 503) and answer.headers["Retry-After"]
        assert (await http.get("/ready")).status_code == 503 and (await http.get("/v1/objectives")).status_code == 200
        assert not await app.state.mavis_drain.until_idle(0.01)
        assert await app.state.mavis_drain.until_idle(30)
        assert (await running).text.endswith("data: [DONE]\n\n")


async def test_refusals_are_counted_by_reason_and_key_and_noted_without_contents(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mavis.audit")
    labels = {"reason": "ApiKeyError", "key": "none"}
    before = REGISTRY.get_sample_value("mavis_refused_requests_total", labels) or 0.0
    async with over(make_app(engine, keys=api_keys(a={}))) as http:
        for _ in range(100):
            body = {"messages": [{"role": "user", "content": "a private matter"}]}
            await http.post(PATH, json=body, headers={"Authorization": "Bearer hunter2hunter2"})
    assert REGISTRY.get_sample_value("mavis_refused_requests_total", labels) == before + 100
    lines = [record.getMessage() for record in caplog.records if record.name == "mavis.audit"]
    assert 0 < len(lines) < 50
    noted = json.loads(lines[0])
    assert (noted["event"], noted["reason"], noted["path"]) == ("refused", "ApiKeyError", PATH)
    assert "hunter2" not in caplog.text and "private" not in caplog.text


def test_the_limits_of_several_processes_add_up() -> None:
    assert limits(max_waiting=64).shared_by(3) == limits(max_waiting=22)
    assert limits(max_waiting=64).shared_by(1) == limits(max_waiting=64)
