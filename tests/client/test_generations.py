"""Live control through both clients: what is sent, what comes back, and what cannot be steered."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from mavis_client import ConflictError, NotFoundError, PermissionDeniedError
from tests.client.kit import CHAT_REPLY, CHAT_STREAM, COMPLETION_STREAM, GUIDED, Script, Sdk, stream_response

Connect = Callable[..., Sdk]

EFFECTIVE = {"id": "chatcmpl-1", "effective_from_token": 7, "choices": [{"index": 0, "effective_from_token": 7}]}
STEERING = {"from_token": 3, "objective_weights": {"positivity": 1.0}, "beta": 1.0, "kl_budget": 0.5}
STATE = {
    "id": "chatcmpl-1",
    "object": "generation",
    "status": "running",
    "choices": [
        {
            "index": 0,
            "finished": False,
            "mavis": {
                **GUIDED,
                "kl_budget": 0.5,
                "steering": [
                    {"from_token": 3, "objective_weights": {"positivity": 1.0}, "beta": 1.0, "kl_budget": 0.5}
                ],
            },
        }
    ],
}


def test_a_stream_is_steered_while_it_is_read(connect: Connect) -> None:
    script = Script(stream_response([CHAT_STREAM]), httpx.Response(200, json=EFFECTIVE))
    sdk = connect(script)
    with sdk.opened(sdk.client.chat_stream("hi", objective_weights={"positivity": 1})) as stream:
        next(stream)
        effective = stream.set_weights({"positivity": -1.0, "simplicity": None}, kl_budget=None, choice=0)
        stream.completion()
    assert effective.effective_from_token == effective.choices[0].effective_from_token == 7
    request = script.requests[1]
    assert (request.method, request.url.path) == ("PATCH", "/v1/generations/chatcmpl-1")
    assert request.headers["X-Generation-Token"] == "t" * 16
    weights = {"positivity": -1.0, "simplicity": None}
    assert script.bodies[1] == {"objective_weights": weights, "kl_budget": None, "choice": 0}


def test_a_stream_can_be_steered_only_once_it_is_known_and_only_with_a_token(connect: Connect) -> None:
    sdk = connect(Script(stream_response([COMPLETION_STREAM])))
    with sdk.opened(sdk.client.complete_stream("hi")) as stream:
        with pytest.raises(RuntimeError, match="first chunk"):
            stream.set_weights({"positivity": 1.0})
        next(stream)
        with pytest.raises(RuntimeError, match="cannot be steered"):
            stream.set_weights({"positivity": 1.0})


def test_a_chosen_id_and_token_reach_the_server_as_headers(connect: Connect) -> None:
    script = Script(httpx.Response(200, json=CHAT_REPLY))
    connect(script).chat("hi", request_id="mine", generation_token="x" * 20)
    headers = script.requests[0].headers
    assert (headers["X-Request-Id"], headers["X-Generation-Token"]) == ("mine", "x" * 20)
    assert script.bodies[0].keys() == {"messages", "stream"}


def test_a_generation_is_read_by_its_id(connect: Connect) -> None:
    script = Script(httpx.Response(200, json=STATE))
    sdk = connect(script)
    state = sdk.wait(sdk.client.generation("chatcmpl-a/b c", "x" * 20).get())
    assert script.requests[0].url.raw_path == b"/v1/generations/chatcmpl-a%2Fb%20c"
    assert (state.status, state.choices[0].finished) == ("running", False)
    (entry,) = state.choices[0].mavis.steering
    assert (entry.from_token, entry.objective_weights, entry.kl_budget) == (3, {"positivity": 1.0}, 0.5)


def test_a_long_trace_is_read_in_parts(connect: Connect) -> None:
    choice = {**STATE["choices"][0], "next_token": 9}  # type: ignore[dict-item]
    script = Script(httpx.Response(200, json={**STATE, "choices": [choice]}))
    sdk = connect(script)
    state = sdk.wait(sdk.client.generation("chatcmpl-1", "x" * 20).get(from_token=3))
    assert script.requests[0].url.raw_path == b"/v1/generations/chatcmpl-1?from_token=3"
    assert state.choices[0].next_token == 9


def test_with_an_api_key_no_token_is_needed(connect: Connect) -> None:
    script = Script(httpx.Response(200, json=EFFECTIVE))
    sdk = connect(script, api_key="sk-local")
    sdk.wait(sdk.client.generation("chatcmpl-1").set_weights(beta=2.0))
    assert "X-Generation-Token" not in script.requests[0].headers
    assert script.requests[0].headers["Authorization"] == "Bearer sk-local"
    assert script.bodies[0] == {"beta": 2.0}


@pytest.mark.parametrize(("status", "kind"), [(403, PermissionDeniedError), (404, NotFoundError), (409, ConflictError)])
def test_refusals_have_their_exceptions(connect: Connect, status: int, kind: type[Exception]) -> None:
    sdk = connect(Script(status, status))
    generation = sdk.client.generation("chatcmpl-1", "x" * 20)
    for call in (generation.get, lambda: generation.set_weights({"positivity": 1.0})):
        with pytest.raises(kind):
            sdk.wait(call())


def test_a_change_that_may_have_come_through_is_not_sent_again(connect: Connect) -> None:
    """Sent again later, it could undo a newer one."""
    script = Script(httpx.ReadError("gone"))
    sdk = connect(script)
    with pytest.raises(Exception, match="gone"):
        sdk.wait(sdk.client.generation("chatcmpl-1", "x" * 20).set_weights(beta=1.0))
    assert len(script.requests) == 1


@pytest.mark.parametrize("keywords", [{"temperature": 1.0}, {"weights": {}, "strength": 1}])
def test_an_unknown_keyword_is_refused(connect: Connect, keywords: dict[str, Any]) -> None:
    sdk = connect(Script())
    with pytest.raises(TypeError, match="unknown keyword"):
        sdk.wait(sdk.client.generation("chatcmpl-1").set_weights(**keywords))
