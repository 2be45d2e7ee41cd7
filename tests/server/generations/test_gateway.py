"""The engine as vLLM's serving classes see it: whatever the route, the operator's policy is in what they send."""

import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from server.errors import ValueFailureError
from server.generations.gateway import EngineGateway
from server.requests.admission import PrefillError
from server.requests.keys import ApiKey, current_key
from tests.server.kit import LIMITS, FakeEngine, catalogue, eventually, make_app
from valuemodels.contract.guidance import EXTRA_ARGS_KEY, Guidance
from valuemodels.contract.policy import KeyRules

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
RULES = KeyRules(floors={"simplicity": 0.5})


def gateway(engine: FakeEngine, **operator: Any) -> EngineGateway:
    app = make_app(engine, catalogue(**operator))
    found: EngineGateway = app.state.openai_serving_chat.engine_client
    return found


def params(n: int = 1) -> Any:
    return SimpleNamespace(n=n, extra_args={"client's": "own"})


async def outputs(client: EngineGateway, asked: Any, tokens: int = 4) -> list[Any]:
    """Of a request as vLLM's other routes send it, without a word of ours."""
    return [output async for output in client.generate({"prompt_token_ids": [1] * tokens}, asked, "resp_1")]


async def test_where_nothing_guides_nothing_is_added(engine: FakeEngine) -> None:
    asked = params()
    assert len(await outputs(gateway(engine), asked)) == engine.tokens
    assert asked.extra_args == {"client's": "own"} and engine.calls == []


async def test_the_rules_of_a_key_travel_with_requests_that_say_nothing(engine: FakeEngine) -> None:
    asked, token = params(), current_key.set(ApiKey("kids", b"", rules=RULES))
    await outputs(gateway(engine, keys={"kids": RULES}), asked)
    current_key.reset(token)
    guidance = asked.extra_args[EXTRA_ARGS_KEY]
    assert isinstance(guidance, Guidance) and guidance.key == "kids" and asked.extra_args["client's"] == "own"
    await eventually(lambda: engine.dropped == ["silent-resp_1"])


@pytest.mark.parametrize(("weight", "travels"), [(1.0, True), (0.0, False)])
async def test_what_is_guided_says_for_whom_alone_it_may_be_kept(
    engine: FakeEngine, weight: float, travels: bool
) -> None:
    """On every route, and where all there is of guidance is the operator's."""
    asked = params()
    client = gateway(engine, default_weights={"positivity": weight})
    salted = {"prompt_token_ids": [1, 2], "cache_salt": "tenant-7"}
    assert [output async for output in client.generate(salted, asked, "resp_1")]
    assert (EXTRA_ARGS_KEY in asked.extra_args) == travels
    if travels:
        assert asked.extra_args[EXTRA_ARGS_KEY].cache_salt == "tenant-7"
        await eventually(lambda: engine.dropped == ["silent-resp_1"])


async def test_a_requests_own_guidance_learns_of_its_salt(engine: FakeEngine) -> None:
    asked = params()
    asked.extra_args[EXTRA_ARGS_KEY] = Guidance("cmpl-1", {"positivity": 1.0})
    salted = {"prompt_token_ids": [1, 2], "cache_salt": "tenant-7"}
    assert [output async for output in gateway(engine).generate(salted, asked, "cmpl-1")]
    assert asked.extra_args == {
        "client's": "own",
        EXTRA_ARGS_KEY: Guidance("cmpl-1", {"positivity": 1.0}, cache_salt="tenant-7"),
    }


async def test_what_must_not_go_without_its_values_fails_on_every_route(engine: FakeEngine) -> None:
    """Its worker has ended the text; without this it would pass for a short answer."""
    client = gateway(engine, default_weights={"positivity": 1.0}, on_value_error={"positivity": "abort"})
    assert len(await outputs(client, params())) == engine.tokens
    engine.ended_without_values = True
    with pytest.raises(ValueFailureError):
        await outputs(client, params())
    await eventually(lambda: len(engine.dropped) == 2)


async def test_a_prompt_too_long_for_value_models_is_refused_on_every_route(engine: FakeEngine) -> None:
    client = gateway(engine, default_weights={"positivity": 1.0})
    with pytest.raises(PrefillError, match="exact scoring"):
        await outputs(client, params(), tokens=LIMITS.max_exact_tokens + 1)
    assert engine.params == []
    assert await outputs(client, params(n=2), tokens=LIMITS.max_exact_tokens), "choices share what is read"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_guided_answer_that_was_ended_is_an_error(engine: FakeEngine, stream: bool) -> None:
    offered = catalogue(on_value_error={"positivity": "abort"})
    engine.ended_without_values = True
    transport = httpx.ASGITransport(app=make_app(engine, offered))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        body = {**CHAT, "objective_weights": {"positivity": 1}, "stream": stream}
        answer = await http.post("/v1/chat/completions", json=body)
    if stream:
        *_, error, done = answer.text.strip().split("\n\n")
        assert done == "data: [DONE]"
        failure = json.loads(error.removeprefix("data: "))["error"]
    else:
        assert answer.status_code == 500
        failure = answer.json()["error"]
    assert failure["code"] == 500 and "gives no answer without it" in failure["message"]
