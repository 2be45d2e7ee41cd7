"""The door before a replica's server, over real sockets: bytes pass as they are, generations are found anywhere."""

import asyncio
import contextlib
import gzip
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from server.cluster.relay import Answer, Asked, Relay, merged
from server.requests.change import MAX_BODY_BYTES

METRICS = """# HELP mavis_changes_total Changes.
# TYPE mavis_changes_total counter
mavis_changes_total{outcome="taken"} %s
# HELP mavis_live Live ones.
# TYPE mavis_live gauge
mavis_live 1.0
"""


class Backend:
    """A server that holds one generation, echoes what it is sent, and streams until its client has gone."""

    def __init__(self, holds: str) -> None:
        self.holds = holds
        self.heard_to_end = asyncio.Event()
        self.gone = asyncio.Event()
        self.app = Starlette(
            routes=[
                Route("/v1/generations/{name}", self.generation, methods=["GET", "PATCH"]),
                Route("/stream", self.stream),
                Route("/breaks", self.breaks),
                Route("/{path:path}", self.echo, methods=["GET", "POST", "PUT"]),
            ]
        )

    async def generation(self, request: Request) -> Response:
        if request.path_params["name"] != self.holds:
            return JSONResponse({"error": "unknown"}, 404)
        body = (await request.body()).decode()
        token = request.headers.get("x-generation-token")
        return JSONResponse({"held": self.holds, "body": len(body), "token": token, "query": request.url.query})

    async def echo(self, request: Request) -> Response:
        body = await request.body()
        target = request.scope["raw_path"].decode() + "?" + request.scope["query_string"].decode()
        told = {
            "target": target,
            "body": len(body),
            "forwarded": request.headers.get("x-forwarded-for"),
            "host": request.headers["host"],
        }
        packed = gzip.compress(JSONResponse(told).body)
        headers = [(b"content-encoding", b"gzip"), (b"x-one", b"1"), (b"x-one", b"2")]
        response = Response(packed, 201, media_type="application/json")
        response.raw_headers.extend(headers)
        return response

    async def stream(self, request: Request) -> Response:
        async def words() -> AsyncIterator[bytes]:
            try:
                for number in range(1000):
                    yield b"data: %d\n\n" % number
                    await asyncio.sleep(0.02)
                self.heard_to_end.set()
            finally:
                self.gone.set()

        return StreamingResponse(words(), media_type="text/event-stream")

    async def breaks(self, request: Request) -> Response:
        async def words() -> AsyncIterator[bytes]:
            yield b"data: 0\n\n"
            raise ConnectionError

        return StreamingResponse(words(), media_type="text/event-stream")


@contextlib.asynccontextmanager
async def listening(app: Starlette) -> AsyncIterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", proxy_headers=False))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110 (uvicorn tells it in no other way)
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            await task


@contextlib.asynccontextmanager
async def two_replicas() -> AsyncIterator[tuple[httpx.AsyncClient, Backend, Backend]]:
    """A client of the first replica's door, and the servers behind both doors."""
    one, two = Backend("one"), Backend("two")
    async with contextlib.AsyncExitStack() as stack:
        relays: list[Relay] = []

        async def ask_all(asked: Asked) -> Sequence[Answer]:
            return [await relay.ask(asked) for relay in relays]

        async def metrics_of_all() -> dict[str, str]:
            return {"a": METRICS % "2.0", "b": METRICS % "3.0"}

        for backend in (one, two):
            relays.append(Relay(await stack.enter_async_context(listening(backend.app)), ask_all, metrics_of_all))
        door = await stack.enter_async_context(listening(relays[0].app))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=door, timeout=10))
        yield client, one, two


async def test_requests_and_answers_pass_as_they_are() -> None:
    async with two_replicas() as (client, _, _):
        body = b"x" * 3_000_000
        headers = {"X-Forwarded-For": "203.0.113.9", "Host": "mavis.example"}
        answer = await client.post("/v1/a%2Fb%20c?x=%2B&y", content=body, headers=headers)
        empty = await client.get("/models")
    assert answer.status_code == 201 and answer.headers.get_list("x-one") == ["1", "2"]
    assert answer.json() == {
        "target": "/v1/a%2Fb%20c?x=%2B&y",
        "body": len(body),
        "forwarded": "203.0.113.9, 127.0.0.1",
        "host": "mavis.example",
    }
    assert empty.json()["body"] == 0


async def test_a_chunked_body_passes() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 1000

    async with two_replicas() as (client, _, _):
        assert (await client.post("/v1/chat", content=parts())).json()["body"] == 10_000


async def test_a_stream_passes_as_it_is_written_and_ends_with_its_client() -> None:
    async with two_replicas() as (client, one, _):
        async with client.stream("GET", "/stream") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.aiter_lines()
            assert [await anext(lines) for _ in range(3)] == ["data: 0", "", "data: 1"]
            assert not one.heard_to_end.is_set()
        await asyncio.wait_for(one.gone.wait(), 5)
        assert not one.heard_to_end.is_set()


async def test_a_stream_that_breaks_off_is_not_taken_for_a_whole_one() -> None:
    async with two_replicas() as (client, _, _):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/breaks")


async def test_whoever_holds_a_generation_answers_and_sees_the_callers_token() -> None:
    async with two_replicas() as (client, _, _):
        headers = {"X-Generation-Token": "its-own-token-123"}
        mine = await client.patch("/v1/generations/one", content=b"{}", headers=headers)
        theirs = await client.patch("/v1/generations/two?from_token=3", content=b"{}", headers=headers)
        nobodys = await client.get("/v1/generations/three")
    assert mine.json()["held"] == "one"
    assert theirs.json() == {"held": "two", "body": 2, "token": "its-own-token-123", "query": "from_token=3"}
    assert nobodys.status_code == 404 and nobodys.json() == {"error": "unknown"}


async def test_of_an_endless_change_only_so_much_is_read_that_it_is_refused() -> None:
    async with two_replicas() as (client, _, _):
        answer = await client.patch("/v1/generations/one", content=b"x" * 1_000_000)
    assert answer.json()["body"] == MAX_BODY_BYTES + 1


async def test_a_server_that_is_gone_is_told_in_a_sentence() -> None:
    async def nobody(asked: Asked) -> Sequence[Answer]:
        return []

    async def nothing() -> dict[str, str]:
        return {}

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        async with listening(Relay(url, nobody, nothing).app) as door, httpx.AsyncClient(base_url=door) as client:
            for answer in (await client.post("/v1/completions", json={}), await client.get("/v1/generations/one")):
                assert answer.status_code == 503 and answer.headers["retry-after"] == "30"
                assert answer.json()["error"]["message"].startswith("the server of this replica does not answer")


async def test_another_replica_that_does_not_answer_is_told_in_a_sentence() -> None:
    async def silence(*_: object) -> Any:
        raise TimeoutError

    async with (
        listening(Backend("one").app) as url,
        listening(Relay(url, silence, silence).app) as door,
        httpx.AsyncClient(base_url=door) as client,
    ):
        for answer in (await client.get("/v1/generations/two"), await client.get("/metrics")):
            assert answer.status_code == 503
            assert answer.json()["error"]["message"].startswith("the server of another replica does not answer")


async def test_the_metrics_are_those_of_all_with_the_replicas_name() -> None:
    async with two_replicas() as (client, _, _):
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.count("# TYPE mavis_changes_total counter") == 1
    assert 'mavis_changes_total{outcome="taken",replica="b"} 3.0' in answer.text
    assert 'mavis_live{replica="a"} 1.0' in answer.text


def test_metrics_of_nobody_are_none() -> None:
    assert merged({"a": ""}) == ""
