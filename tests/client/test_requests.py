"""What is sent: bodies, headers, timeouts, and calls that are refused before anything is sent."""

import json
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from mavis_client import DEFAULT_TIMEOUT, AsyncMavisClient, MavisClient, __version__
from mavis_client._requests import chat_call, completion_call
from tests.client.kit import BASE_URL, CHAT_REPLY, Script, Sdk

Connect = Callable[..., Sdk]


def chat_body(**keywords: Any) -> dict[str, Any]:
    body = chat_call("hi", keywords, stream=False).body  # type: ignore[arg-type]
    result: dict[str, Any] = json.loads(body or b"")
    return result


def test_a_text_becomes_a_users_message_and_a_conversation_is_sent_as_it_is() -> None:
    conversation = ({"role": "system", "content": "Be brief."}, MappingProxyType({"role": "user", "content": "hé"}))
    assert chat_body() == {"messages": [{"role": "user", "content": "hi"}], "stream": False}
    sent = json.loads(chat_call(conversation, {}, stream=True).body or b"")
    assert sent == {"messages": [dict(message) for message in conversation], "stream": True}


def test_every_guidance_field_stands_at_the_top_level() -> None:
    fields: dict[str, Any] = {
        "objective_weights": {"positivity": 1.0, "simplicity": -0.5},
        "beta": 2.0,
        "candidates": 20,
        "kl_budget": 0.1,
        "scoring": "exact",
        "profile": "kind",
        "return_values": "candidates",
    }
    body = chat_body(**fields)
    assert {name: body[name] for name in fields} == fields
    call = completion_call([1, 2], fields, stream=False)  # type: ignore[arg-type]
    assert json.loads(call.body or b"") == {"prompt": [1, 2], "stream": False, **fields}


def test_what_is_not_given_is_not_sent_and_none_is_null() -> None:
    assert "kl_budget" not in chat_body()
    assert chat_body(kl_budget=None)["kl_budget"] is None
    assert "model" not in chat_body(model=None, extra_body=None, extra_headers=None, timeout=None)
    assert chat_body(model="smol")["model"] == "smol"


def test_other_fields_go_through_extra_body() -> None:
    assert chat_body(extra_body={"priority": 3, "model": "smol"})["priority"] == 3


@pytest.mark.parametrize("field", ["temperature", "messages", "stream", "model"])
def test_a_field_given_twice_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"extra_body: '{field}' is already set"):
        chat_body(temperature=1.0, model="smol", extra_body={field: 0})


@pytest.mark.parametrize("keyword", ["objective_weight", "temprature", "stream", "echo"])
def test_an_unknown_keyword_is_refused(keyword: str) -> None:
    with pytest.raises(TypeError, match=f"unknown keyword '{keyword}'; .* extra_body"):
        chat_body(**{keyword: 1})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_carry_names_its_field(number: float) -> None:
    with pytest.raises(ValueError, match=r"objective_weights: got .*positivity.*which JSON cannot carry"):
        chat_body(objective_weights={"positivity": number})


def test_a_value_that_json_cannot_carry_names_its_field() -> None:
    with pytest.raises(TypeError, match=r"seed: got .*which JSON cannot carry"):
        chat_body(seed=object())


def test_headers_say_who_asks_and_carry_the_key(connect: Connect) -> None:
    script = Script(httpx.Response(200, json=CHAT_REPLY))
    connect(script, api_key="sk-1").chat("hi", extra_headers={"X-Request-Id": "r1"})
    headers = script.requests[0].headers
    assert headers["Authorization"] == "Bearer sk-1"
    assert headers["X-Request-Id"] == "r1"
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"] == f"mavis-client/{__version__}"


def test_without_a_key_no_authorization_is_sent(connect: Connect) -> None:
    script = Script(httpx.Response(200, json=CHAT_REPLY))
    connect(script).chat("hi")
    assert "Authorization" not in script.requests[0].headers


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [
        (None, {"connect": 2.0, "read": 3.0, "write": 3.0, "pool": 3.0}),
        (7.0, {"connect": 7.0, "read": 7.0, "write": 7.0, "pool": 7.0}),
        (httpx.Timeout(None), {"connect": None, "read": None, "write": None, "pool": None}),
    ],
)
def test_a_call_may_have_its_own_timeout(connect: Connect, timeout: Any, expected: dict[str, float | None]) -> None:
    script = Script(httpx.Response(200, json=CHAT_REPLY))
    connect(script, timeout=httpx.Timeout(3.0, connect=2.0)).chat("hi", timeout=timeout)
    assert script.requests[0].extensions["timeout"] == expected


def test_the_default_timeout_waits_long_for_an_answer_and_not_for_a_connection() -> None:
    assert (DEFAULT_TIMEOUT.connect, DEFAULT_TIMEOUT.read) == (5.0, 600.0)


@pytest.mark.parametrize("base_url", ["http://mavis.test/team", "http://mavis.test/team/"])
def test_the_server_may_live_under_a_path(connect: Connect, base_url: str) -> None:
    script = Script(httpx.Response(200, json=CHAT_REPLY))
    connect(script, base_url=base_url).chat("hi")
    assert str(script.requests[0].url) == "http://mavis.test/team/v1/chat/completions"


@pytest.mark.parametrize("client_type", [MavisClient, AsyncMavisClient])
@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://mavis.test",
        "http://",
        "http://mavis.test/v1",
        "http://mavis.test/v1/",
        "http://h?x=1",
        "http://h:no",
    ],
)
def test_an_address_that_cannot_work_is_refused_at_once(client_type: type[MavisClient], base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url: got "):
        client_type(base_url)


@pytest.mark.parametrize("api_key", ["", "sk-secret\n", "sk secret", "sk-sécret"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(api_key: str) -> None:
    with pytest.raises(ValueError, match="api_key: allowed are") as caught:
        MavisClient(BASE_URL, api_key=api_key)
    assert "cret" not in str(caught.value)
