"""A tiny real HTTP server that speaks the contract, so that chunking, breaks and disconnects are the network's own."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from tests.client.kit import CHAT_CHUNKS, CHAT_REPLY, CHAT_STREAM, COMPLETION_CHUNKS, DONE, GUIDED, event

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OBJECTIVES = {
    "object": "list",
    "data": [
        {"id": name, "description": f"More {name}.", "default": 0.0, "bounds": [-2.0, 2.0], "scorings": ["exact"]}
        for name in ("positivity", "simplicity")
    ],
}
COMPLETION_REPLY = {
    **COMPLETION_CHUNKS[0],
    "choices": [
        {"index": 0, "text": "one!", "finish_reason": "stop", "mavis": {**GUIDED, "values": {"positivity": 1.0}}}
    ],
}


class FakeServer:
    """What the request says decides what happens: the last message, or the prompt, is the name of a behaviour.

    "cut": the connection breaks in the middle of a stream; "stop": it ends there, cleanly; "hang": nothing but
    keep-alive comments comes after the first chunk; "silent": no answer at all; anything else: a whole answer, its
    stream in single bytes. An unknown objective is refused.

    Attributes:
        url: address of the running server.
        client_left: set when a client went away before its answer was complete.
    """

    def __init__(self) -> None:
        self.url = ""
        self.client_left = threading.Event()

    @contextmanager
    def running(self) -> Iterator["FakeServer"]:
        """Serve on a free port, in a thread."""
        config = uvicorn.Config(self, host="127.0.0.1", port=0, log_level="critical", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        with config.bind_socket() as listening:
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            try:
                yield self
            finally:
                server.should_exit = True
                server.force_exit = True
                thread.join(timeout=60)
                assert not thread.is_alive(), "the server did not stop"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["method"] == "GET":
            await _answer(send, 200, OBJECTIVES if scope["path"] == "/v1/objectives" else {})
            return
        request = json.loads(await _body(receive))
        if scope["method"] == "PATCH":
            await _answer(send, 200, {"id": scope["path"].rsplit("/", 1)[1], "effective_from_token": 3})
            return
        if unknown := sorted(request.get("objective_weights", {}).keys() - {"positivity", "simplicity"}):
            field = f"objective_weights.{unknown[0]}"
            await _answer(
                send,
                400,
                {"error": {"message": f"{field}: unknown", "type": "BadRequestError", "param": field, "code": 400}},
            )
        elif request["stream"]:
            await self._stream(request, receive, send)
        elif _asked(request) == "silent":
            await self._until_client_left(receive)
        else:
            await _answer(send, 200, CHAT_REPLY if "messages" in request else COMPLETION_REPLY)

    async def _stream(self, request: dict[str, Any], receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        behaviour = _asked(request)
        if behaviour in ("cut", "stop", "hang"):
            await _send_body(send, event(CHAT_CHUNKS[1]))
            if behaviour == "cut":
                raise ConnectionAbortedError("cut on purpose")
            if behaviour == "hang":
                await self._until_client_left(receive, send)
        elif "messages" in request:
            for at in range(len(CHAT_STREAM)):
                await _send_body(send, CHAT_STREAM[at : at + 1])
        else:
            await _send_body(send, b"".join(map(event, COMPLETION_CHUNKS)) + DONE)
        await _send_body(send, b"", more=False)

    async def _until_client_left(self, receive: Receive, send: Send | None = None) -> None:
        left = asyncio.ensure_future(receive())
        while not left.done():
            await asyncio.wait([left], timeout=0.02)
            if send is not None and not left.done():
                await _send_body(send, b": keep-alive\n\n")
        self.client_left.set()


def _asked(request: dict[str, Any]) -> object:
    return request["messages"][-1]["content"] if "messages" in request else request["prompt"]


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _answer(send: Send, status: int, payload: object) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await _send_body(send, json.dumps(payload).encode(), more=False)


async def _send_body(send: Send, body: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
