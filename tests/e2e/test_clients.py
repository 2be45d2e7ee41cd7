"""The SDK and the real `openai` package against the real server."""

import asyncio
from typing import Any

import openai
import pytest

from mavis_client import AsyncMavisClient, BadRequestError, MavisClient
from tests.e2e.conftest import Server

pytestmark = pytest.mark.engine

QUESTION = "What do you think of rainy days?"
WEIGHTS = {"positivity": 1.0}


def test_the_sdk_chats_streams_and_lists_objectives(server: Server) -> None:
    with MavisClient(server.url) as client:
        assert client.ready()
        assert {"positivity", "simplicity"} <= {objective.id for objective in client.objectives()}
        whole: Any = client.chat(QUESTION, objective_weights=WEIGHTS, max_tokens=16, seed=1, return_values=True)
        block = whole.choices[0].mavis
        assert block is not None and block.kl is not None and block.kl > 0
        assert block.tokens is not None and len(block.tokens) == 16
        with client.chat_stream(QUESTION, objective_weights=WEIGHTS, max_tokens=16, seed=1) as stream:
            text = "".join(chunk.text for chunk in stream)
        assert text == whole.text
        with pytest.raises(BadRequestError) as refused:
            client.chat(QUESTION, objective_weights={"humour": 1.0})
        assert refused.value.param == "objective_weights.humour"


def test_the_async_sdk_guides_every_request_by_its_own_weights(server: Server) -> None:
    async def both() -> tuple[float, float]:
        async with AsyncMavisClient(server.url) as client:
            answers = await asyncio.gather(
                *(
                    client.chat(QUESTION, objective_weights={"positivity": w}, max_tokens=24, seed=2)
                    for w in (-1.0, 1.0)
                )
            )
            blocks = [answer.choices[0].mavis for answer in answers]
            assert blocks[0] is not None and blocks[1] is not None
            return blocks[0].values["positivity"], blocks[1].values["positivity"]

    low, high = asyncio.run(both())
    assert low < 0 < high


def test_the_openai_package_guides_through_extra_body(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    messages: Any = [{"role": "user", "content": QUESTION}]
    extra: Any = {"objective_weights": WEIGHTS, "return_values": True}
    whole: Any = client.chat.completions.create(model=model, messages=messages, max_tokens=12, seed=1, extra_body=extra)
    assert whole.choices[0].mavis["values"].keys() > WEIGHTS.keys()
    chunks: list[Any] = list(
        client.chat.completions.create(
            model=model, messages=messages, max_tokens=12, seed=1, extra_body=extra, stream=True
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].mavis["kl"] > 0
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=model, prompt="Hi", max_tokens=2, extra_body={"beta": -1})
    assert refused.value.param == "beta"
