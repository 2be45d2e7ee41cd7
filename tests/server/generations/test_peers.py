"""Several HTTP processes: two apps of one engine, which ask each other over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from server.generations.peers import PeerDoor, Peers
from tests.server.kit import FakeEngine, api_keys, as_key, eventually, make_app

MINE = {"X-Generation-Token": "my-own-generation-token"}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "objective_weights": {"positivity": 1.0}}
URL = "/v1/generations/chatcmpl-mine"
CHANGE = {"objective_weights": {"positivity": -1.0}}
ENDLESS = 10**6


class Pair:
    """Two HTTP processes before one engine."""

    def __init__(self, engine: FakeEngine, folder: Path, **more: Any) -> None:
        self.engine = engine
        self.apps = [make_app(engine, **more) for _ in range(2)]
        self.sockets = [folder / f"{index}.sock" for index in range(2)]
        self.keys = more.get("keys") or api_keys()
        self.doors: list[asyncio.Server] = []

    async def open(self) -> None:
        for index, app in enumerate(self.apps):
            service = app.state.mavis
            service.peers = Peers(service.registry, [self.sockets[1 - index]], patience_s=5)
            door = PeerDoor(service.registry, service.control, self.keys.find)
            self.doors.append(await door.open(self.sockets[index]))

    def over(self, index: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self.apps[index]), base_url="http://test")

    @asynccontextmanager
    async def writing(self, index: int, **headers: str) -> AsyncIterator["asyncio.Task[httpx.Response]"]:
        """The generation "chatcmpl-mine" under way on one of them."""
        self.engine.tokens = ENDLESS
        async with self.over(index) as http:
            asked = http.post("/v1/chat/completions", json=CHAT, headers={"X-Request-Id": "mine", **MINE, **headers})
            call = asyncio.create_task(asked)
            await eventually(lambda: self.engine.known.get("chatcmpl-mine", 0) > self.engine.overshoot)
            yield call
            self.engine.tokens = 0
            assert (await call).status_code == 200
            await eventually(lambda: len(registry_of(self.apps[index])) == 0)


def registry_of(app: FastAPI) -> Any:
    return app.state.mavis.registry


@pytest.fixture
async def pair(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(engine, tmp_path)
    await pair.open()
    yield pair
    for door in pair.doors:
        door.close()


async def test_a_change_and_a_read_reach_the_process_that_holds_the_generation(pair: Pair) -> None:
    async with pair.over(0) as here, pair.over(1) as there:
        async with pair.writing(1):
            changed = await here.patch(URL, json=CHANGE, headers=MINE)
            assert changed.status_code == 200, changed.text
            assert changed.json()["effective_from_token"] > 0
            async with asyncio.timeout(10):  # what holds is told with the tokens that it held for
                while True:
                    told = (await here.get(URL, headers=MINE)).json()
                    assert told["status"] == "running"
                    if told["choices"][0]["mavis"]["steering"][-1]["objective_weights"]["positivity"] == -1.0:
                        break
        ended = await here.get(f"{URL}?from_token=1", headers=MINE)
        assert ended.json() == (await there.get(f"{URL}?from_token=1", headers=MINE)).json()
        assert ended.json()["status"] == "finished"
        assert (await here.patch(URL, json=CHANGE, headers=MINE)).status_code == 409


async def test_refusals_are_those_of_the_holder(pair: Pair) -> None:
    async with pair.over(0) as here, pair.over(1) as there, pair.writing(1):
        for headers, body in (({}, CHANGE), (MINE, {"objective_weights": {"nonsense": 1}}), (MINE, {"beta": "x"})):
            answers = [await http.patch(URL, json=body, headers=headers) for http in (here, there)]
            assert answers[0].status_code == answers[1].status_code >= 400
            assert answers[0].json() == answers[1].json()
        odd = await here.patch(URL, content=b"\xff\xfe{", headers=MINE)
        assert odd.status_code == 400
        assert (await here.get("/v1/generations/chatcmpl-nobodys", headers=MINE)).status_code == 404


async def test_an_id_is_taken_wherever_its_generation_runs(pair: Pair) -> None:
    async with pair.over(0) as here:
        async with pair.writing(1):
            headers = {"X-Request-Id": "mine", **MINE}
            refused = await here.post("/v1/chat/completions", json=CHAT, headers=headers)
            assert refused.status_code == 409 and "still running" in refused.text
            assert (await here.patch(URL, json=CHANGE, headers=MINE)).status_code == 200, "the first goes on"
        async with pair.writing(0):  # given again, to the other process
            for index in range(2):
                async with pair.over(index) as http:
                    assert (await http.get(URL, headers=MINE)).json()["status"] == "running"


async def test_an_api_key_is_known_to_the_holder(engine: FakeEngine, tmp_path: Path) -> None:
    pair = Pair(engine, tmp_path, keys=api_keys(a={}, b={}))
    await pair.open()
    async with pair.over(0) as here, pair.writing(1, **as_key("a")):
        assert (await here.patch(URL, json=CHANGE, headers=as_key("a"))).status_code == 200
        assert (await here.patch(URL, json=CHANGE, headers=as_key("b"))).status_code == 403
    for door in pair.doors:
        door.close()


async def test_a_process_that_is_not_there_holds_nothing(pair: Pair) -> None:
    service = pair.apps[0].state.mavis
    service.peers = Peers(service.registry, [pair.sockets[1], Path("/nowhere/2.sock")])
    async with pair.over(0) as here, pair.writing(1):
        assert (await here.patch(URL, json=CHANGE, headers=MINE)).status_code == 200
        pair.doors[1].close()
        pair.sockets[1].unlink(missing_ok=True)
        assert (await here.patch(URL, json=CHANGE, headers=MINE)).status_code == 404
