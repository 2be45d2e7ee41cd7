"""Streams of the two clients over a scripted transport: every promise holds on both."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from mavis_client import (
    APIConnectionError,
    APITimeoutError,
    AsyncMavisClient,
    ProtocolError,
    StreamError,
)
from tests.client.kit import (
    BASE_URL,
    CHAT_CHUNKS,
    CHAT_REPLY,
    CHAT_STREAM,
    COMPLETION_STREAM,
    DONE,
    Script,
    Sdk,
    event,
    stream_response,
)

Connect = Callable[..., Sdk]


def test_a_stream_gives_chunks_and_the_same_reply_as_no_stream(connect: Connect) -> None:
    script = Script(stream_response([CHAT_STREAM]), httpx.Response(200, json=CHAT_REPLY))
    sdk = connect(script)
    with sdk.opened(sdk.client.chat_stream("hi")) as stream:
        assert "".join(chunk.text for chunk in stream) == stream.text
        streamed = stream.completion()
    assert streamed == sdk.chat("hi")
    assert [body["stream"] for body in script.bodies] == [True, False]


def test_text_deltas_are_the_pieces_of_text(connect: Connect) -> None:
    sdk = connect(Script(stream_response([CHAT_STREAM])))
    with sdk.opened(sdk.client.chat_stream("hi")) as stream:
        assert list(stream.text_deltas()) == ["Rain ☔", "\u2028sings é", "."]


def test_a_reply_can_be_asked_for_after_part_of_the_stream(connect: Connect) -> None:
    sdk = connect(Script(stream_response([COMPLETION_STREAM])))
    with sdk.opened(sdk.client.complete_stream("hi", n=2)) as stream:
        assert next(stream).choices[0].text == "two"
        assert [choice.text for choice in stream.completion().choices] == ["one!", "two"]


def test_nothing_is_sent_before_the_stream_is_entered(connect: Connect) -> None:
    script = Script()
    stream = connect(script).client.chat_stream("hi")
    assert script.requests == []
    assert stream.text == ""


def test_a_stream_is_read_inside_its_block_and_once(connect: Connect) -> None:
    sdk = connect(Script(stream_response([CHAT_STREAM])))
    stream = sdk.client.chat_stream("hi")
    with sdk.opened(stream) as opened:
        next(opened)
    with pytest.raises(RuntimeError, match="not open"):
        opened.completion()
    with pytest.raises(RuntimeError, match="opened before"), sdk.opened(stream):
        pass


def test_leaving_early_closes_the_response(connect: Connect) -> None:
    response = stream_response([event(chunk) for chunk in CHAT_CHUNKS])
    sdk = connect(Script(response))
    with sdk.opened(sdk.client.chat_stream("hi")) as stream:
        next(stream)
    assert response.is_closed


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.RemoteProtocolError("peer closed connection"), APIConnectionError),
        (httpx.ReadError("reset"), APIConnectionError),
        (httpx.ReadTimeout(""), APITimeoutError),
        (httpx.DecodingError("bad gzip"), ProtocolError),
        (None, APIConnectionError),
    ],
)
def test_a_stream_that_breaks_midway_raises_after_what_came(
    connect: Connect, error: Exception | None, expected: type[Exception]
) -> None:
    script = Script(stream_response([event(CHAT_CHUNKS[1])], error))
    sdk = connect(script)
    with sdk.opened(sdk.client.chat_stream("hi")) as stream:
        assert next(stream).text == "Rain ☔"
        for ask in (stream.__next__, stream.completion, stream.__next__):
            with pytest.raises(expected) as caught:
                ask()
            assert type(caught.value) is expected
            assert caught.value.__cause__ is error
        assert stream.text == "Rain ☔"
    assert len(script.requests) == 1


def test_an_error_event_raises_where_it_stands(connect: Connect) -> None:
    pieces = [event(CHAT_CHUNKS[1]), event({"error": {"message": "value model", "code": 500}}), DONE]
    sdk = connect(Script(stream_response(pieces)))
    with sdk.opened(sdk.client.chat_stream("hi")) as stream:
        next(stream)
        with pytest.raises(StreamError, match="value model"):
            next(stream)


def test_an_answer_that_is_no_stream_is_refused(connect: Connect) -> None:
    sdk = connect(Script(httpx.Response(200, json=CHAT_REPLY)))
    with sdk.opened(sdk.client.chat_stream("hi")) as stream, pytest.raises(ProtocolError, match="application/json"):
        next(stream)


@pytest.mark.asyncio
async def test_cancelling_a_task_closes_its_stream() -> None:
    reading = asyncio.Event()

    class Endless(httpx.AsyncByteStream):
        closed = False

        async def __aiter__(self) -> AsyncIterator[bytes]:
            reading.set()
            await asyncio.Event().wait()
            yield b""

        async def aclose(self) -> None:
            self.closed = True

    body = Endless()
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=body)
    async with AsyncMavisClient(BASE_URL, transport=httpx.MockTransport(Script(response))) as client:

        async def read() -> None:
            async with client.chat_stream("hi") as stream:
                await stream.completion()

        task = asyncio.create_task(read())
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert body.closed
