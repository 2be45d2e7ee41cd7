"""A head that does not end: the connection does. Over a real socket, since no middleware ever sees such a request."""

import asyncio
import socket
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
import uvicorn

from server.start.http_protocol import SLACK_BYTES, bounded_http

LIMIT = 1000


async def hello(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(hello, http=bounded_http(LIMIT), log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join(timeout=10)


def sent(address: tuple[str, int], *pieces: bytes) -> bytes:
    """What comes back; empty where the connection was ended without a word."""
    with socket.create_connection(address, timeout=10) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            return connection.recv(1000)
        except (BrokenPipeError, ConnectionResetError):
            return b""


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nX: ", b"GET /"])
def test_a_head_that_does_not_end_is_given_up(address: tuple[str, int], head: bytes) -> None:
    answer = sent(address, head, *[b"a" * 10_000] * 200)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


def test_a_long_body_is_not_a_long_head(address: tuple[str, int]) -> None:
    size = 3 * SLACK_BYTES
    head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
    assert sent(address, head, b"a" * size).startswith(b"HTTP/1.1 200")


def test_heads_of_one_connection_do_not_add_up(address: tuple[str, int]) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (SLACK_BYTES // 2) + b"\r\n\r\n"
    with socket.create_connection(address, timeout=10) as connection:
        for _ in range(5):
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"ok"):
                answer += connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200")
