"""What the routes answer is what their models say, and the page written from the models is up to date."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from server.api import offer_schema, schema
from server.api.document import document, documented_models
from server.requests.fields import GuidanceFields, ScheduleEntry
from tests.server.kit import FakeEngine, events, eventually, make_app
from valuemodels.contract import evaluation

PAGE = Path(__file__).parents[3] / "docs" / "http-api.md"
MINE = {"X-Generation-Token": "my-own-generation-token", "X-Request-Id": "mine"}
ASKED = {"objective_weights": {"positivity": 1.0}, "return_values": "candidates"}
CHAT = {"messages": [{"role": "user", "content": "hi"}], **ASKED}


@pytest.fixture
async def http(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    engine.tokens = 60
    transport = httpx.ASGITransport(app=make_app(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), "run `make docs`"


def test_every_field_says_what_it_means() -> None:
    models: set[type[BaseModel]] = {
        model
        for module in (schema, offer_schema, evaluation)
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, BaseModel)
    }
    homes = (schema.__name__, offer_schema.__name__, evaluation.__name__)
    ours = {
        model
        for model in models
        if model.__module__ in homes and model not in (schema.Answer, evaluation.Interval.__base__)
    }
    everything: list[type[BaseModel]] = [*ours, GuidanceFields]
    for model in everything:
        assert model.__doc__, model
        own = model.__annotations__.keys() - {"choices" if model.__name__.endswith("Response") else ""}
        assert {
            name for name in own if name in model.model_fields and not model.model_fields[name].description
        } == set()
    additions = {model for model in ours if model.__name__.startswith("Guided")}
    assert set(documented_models()) == (ours - additions) | {GuidanceFields, ScheduleEntry}, "a model is on no page"


async def test_what_is_declared_is_in_the_openapi_page(http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()
    for path in ("/v1/chat/completions", "/v1/completions"):
        headers = {parameter["name"] for parameter in page["paths"][path]["post"]["parameters"]}
        assert headers >= {"X-Request-Id", "X-Generation-Token"}
    change = page["paths"]["/v1/generations/{generation_id}"]["patch"]
    fields = change["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert fields.keys() == schema.GenerationChange.model_fields.keys() and "default" not in fields["choice"]
    assert {"X-Generation-Token"} <= {parameter["name"] for parameter in change["parameters"]}
    assert {"MavisBlock", "ObjectiveList", "GenerationState"} <= page["components"]["schemas"].keys()


async def test_an_answer_is_what_its_model_says(http: httpx.AsyncClient) -> None:
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "a", **ASKED})):
        answer = (await http.post(path, json=body)).json()
        block = schema.MavisBlock.model_validate(answer["choices"][0]["mavis"])
        assert block.tokens and block.tokens[0].candidates and answer["generation_token"]


async def test_a_changed_stream_is_what_its_models_say(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    call = asyncio.create_task(http.post("/v1/chat/completions", json={**CHAT, "stream": True}, headers=MINE))
    await eventually(lambda: engine.known.get("chatcmpl-mine", 0) > engine.overshoot)
    url = "/v1/generations/chatcmpl-mine"
    changed = await http.patch(url, json={"beta": 2, "choice": 0}, headers=MINE)
    schema.GenerationChanged.model_validate(changed.json())
    schema.GenerationState.model_validate((await http.get(url, headers=MINE)).json())
    blocks: list[dict[str, Any]] = [
        choice["mavis"] for event in events((await call).text) for choice in event["choices"] if "mavis" in choice
    ]
    assert len(blocks) > 2
    for block in blocks[:-1]:
        schema.MavisChunk.model_validate(block)
    schema.MavisBlock.model_validate(blocks[-1])
    schema.GenerationState.model_validate((await http.get(url, headers=MINE)).json())


async def test_listing_and_readiness_are_what_their_models_say(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert offer_schema.ObjectiveList.model_validate((await http.get("/v1/objectives")).json()).data
    for errored in (False, True):
        engine.errored = errored
        schema.Readiness.model_validate((await http.get("/ready")).json())
