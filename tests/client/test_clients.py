"""The two clients end to end over a scripted transport: every promise holds on both."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from mavis_client import (
    AsyncMavisClient,
    AuthenticationError,
    ChatCompletion,
    MavisClient,
)
from tests.client.kit import (
    BASE_URL,
    CHAT_REPLY,
    Script,
    Sdk,
)

Connect = Callable[..., Sdk]

COMPLETION_REPLY: dict[str, Any] = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 7,
    "model": "smol",
    "choices": [{"index": 0, "text": "one!", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}
OBJECTIVE = {
    "id": "positivity",
    "description": "How cheerful the answer is.",
    "default": 0.0,
    "bounds": [-2.0, 2.0],
    "floor": None,
    "scorings": ["exact"],
    "checkpoint": "embedded-1",
    "reward": "vader:compound",
    "metrics": {"explained_variance": 0.3},
    "colour": "yellow",
}


def test_chat_gives_text_and_what_the_guidance_did(connect: Connect) -> None:
    script = Script(httpx.Response(200, json=CHAT_REPLY))
    reply: ChatCompletion = connect(script).chat("Tell me about rain", objective_weights={"positivity": 1.0})
    assert script.requests[0].url.path == "/v1/chat/completions"
    assert reply.text == "Rain ☔\u2028sings é."
    assert reply.values == {"positivity": 0.5}
    mavis = reply.choices[0].mavis
    assert mavis is not None
    assert (mavis.objective_weights, mavis.beta, mavis.scoring, mavis.checkpoint, mavis.kl) == (
        {"positivity": 1.0},
        1.0,
        "exact",
        "embedded",
        0.75,
    )
    assert mavis.tokens[0].levels == {"positivity": 0.5}
    assert mavis.tokens[0].candidates is None
    assert reply.usage is not None
    assert reply.usage.total_tokens == 8


def test_an_answer_without_guidance_has_no_values(connect: Connect) -> None:
    reply = connect(Script(httpx.Response(200, json=COMPLETION_REPLY))).complete("x")
    assert (reply.text, reply.values, reply.choices[0].mavis) == ("one!", {}, None)


def test_candidates_are_typed(connect: Connect) -> None:
    candidate = {"token_id": 3, "logprob": -0.1, "tilted_logprob": None, "values": {"positivity": 0.5}}
    body = {
        **COMPLETION_REPLY,
        "choices": [{"index": 0, "mavis": {"tokens": [{"token_id": 3, "candidates": [candidate]}]}}],
    }
    reply = connect(Script(httpx.Response(200, json=body))).complete("x", return_values="candidates")
    first = reply.choices[0].mavis.tokens[0].candidates[0]
    assert (first.token_id, first.logprob, first.tilted_logprob, first.values) == (3, -0.1, None, {"positivity": 0.5})


def test_objectives_are_typed_and_keep_unknown_fields(connect: Connect) -> None:
    script = Script(httpx.Response(200, json={"object": "list", "data": [OBJECTIVE]}))
    (objective,) = connect(script).objectives()
    assert (objective.id, objective.bounds, objective.default, objective.floor) == (
        "positivity",
        (-2.0, 2.0),
        0.0,
        None,
    )
    assert objective.metrics == {"explained_variance": 0.3}
    assert objective.colour == "yellow"


@pytest.mark.parametrize("probe", ["health", "ready"])
@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (200, True),
        (503, False),
        (httpx.ConnectError("refused"), False),
        (httpx.ReadTimeout(""), False),
    ],
)
def test_probes_answer_yes_or_no_after_one_attempt(
    connect: Connect, probe: str, outcome: int | Exception, expected: bool
) -> None:
    script = Script(outcome)
    assert getattr(connect(script), probe)() is expected
    assert [request.url.path for request in script.requests] == [f"/{probe}"]


def test_a_probe_that_is_refused_for_another_reason_raises(connect: Connect) -> None:
    with pytest.raises(AuthenticationError):
        connect(Script(401)).ready()


def test_the_blocking_client_closes_with_its_block() -> None:
    with MavisClient(BASE_URL, transport=httpx.MockTransport(Script(200))) as client:
        assert client.health()
    with pytest.raises(RuntimeError):
        client.health()


@pytest.mark.asyncio
async def test_the_async_client_closes_with_its_block() -> None:
    async with AsyncMavisClient(BASE_URL, transport=httpx.MockTransport(Script(200))) as client:
        assert await client.health()
    with pytest.raises(RuntimeError):
        await client.health()
