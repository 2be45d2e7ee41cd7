"""What the client's tests share: a scripted server, sample answers, and one face for the two clients."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import httpx

from mavis_client import AsyncMavisClient, AsyncStream, MavisClient, Stream

BASE_URL = "http://mavis.test"
KINDS = ("sync", "async")
DONE = b"data: [DONE]\n\n"


def event(payload: object) -> bytes:
    """One server-sent event, as vLLM writes it."""
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A response body that arrives in these pieces, and then ends or breaks."""

    def __init__(self, pieces: Iterable[bytes], error: Exception | None = None) -> None:
        self._pieces = pieces
        self._error = error
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        if self._error is not None:
            raise self._error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def stream_response(pieces: Iterable[bytes], error: Exception | None = None) -> httpx.Response:
    """An answer with an event stream for its body."""
    return httpx.Response(200, headers={"Content-Type": "text/event-stream; charset=utf-8"}, stream=Body(pieces, error))


class Script:
    """A server that answers with these outcomes, in order: a bare status, or what the transport is to raise."""

    def __init__(self, *outcomes: httpx.Response | int | Exception) -> None:
        self._outcomes = list(outcomes)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return httpx.Response(outcome) if isinstance(outcome, int) else outcome

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The JSON bodies received."""
        return [json.loads(request.content) for request in self.requests]


class Sdk:
    """One of the two clients behind blocking calls, so that each promise is tested on both.

    Attributes:
        slept: seconds of each wait between attempts; nothing really waits.
    """

    def __init__(self, kind: str, base_url: str, arguments: Mapping[str, Any]) -> None:
        self.slept: list[float] = []
        self._runner = asyncio.Runner()
        self.client = self._blocking(base_url, arguments) if kind == "sync" else self._async(base_url, arguments)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return lambda *args, **keywords: self.wait(getattr(self.client, method)(*args, **keywords))

    def wait(self, result: Any) -> Any:
        """The result, of the async client once it is there."""
        return self._runner.run(_awaited(result)) if isinstance(result, Awaitable) else result

    @contextmanager
    def opened(self, stream: "Stream[Any, Any] | AsyncStream[Any, Any]") -> "Iterator[OpenStream]":
        """The stream inside its `with` block."""
        if isinstance(stream, Stream):
            with stream as entered:
                yield OpenStream(self, entered)
            return
        self.wait(stream.__aenter__())
        try:
            yield OpenStream(self, stream)
        finally:
            self.wait(stream.__aexit__(None, None, None))

    def close(self) -> None:
        """Close the client and its event loop."""
        self.wait(self.client.close())
        self._runner.close()

    def _blocking(self, base_url: str, arguments: Mapping[str, Any]) -> Any:
        client = MavisClient(base_url, **arguments)
        client._sleep = self.slept.append
        return client

    def _async(self, base_url: str, arguments: Mapping[str, Any]) -> Any:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        client = AsyncMavisClient(base_url, **arguments)
        client._sleep = sleep
        return client


class OpenStream:
    """An open stream of either client."""

    def __init__(self, sdk: Sdk, stream: Any) -> None:
        self._sdk = sdk
        self._stream = stream

    def __iter__(self) -> "OpenStream":
        return self

    def __next__(self) -> Any:
        return _next(self._sdk, self._stream)

    @property
    def text(self) -> str:
        return cast(str, self._stream.text)

    def text_deltas(self) -> Iterator[str]:
        deltas = self._stream.text_deltas()
        while True:
            try:
                yield _next(self._sdk, deltas)
            except StopIteration:
                return

    def set_weights(self, *args: Any, **keywords: Any) -> Any:
        return self._sdk.wait(self._stream.set_weights(*args, **keywords))

    def completion(self) -> Any:
        return self._sdk.wait(self._stream.completion())


def _next(sdk: Sdk, iterator: Any) -> Any:
    if isinstance(iterator, Iterator):
        return next(iterator)
    try:
        return sdk.wait(anext(iterator))
    except StopAsyncIteration:
        raise StopIteration from None


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def token(token_id: int, positivity: float, kl: float = 0.25) -> dict[str, Any]:
    """One entry of `mavis.tokens`."""
    return {"token_id": token_id, "kl": kl, "values": {"positivity": positivity}, "levels": {"positivity": 0.5}}


def chat_chunk(choices: Sequence[Mapping[str, Any]], **fields: Any) -> dict[str, Any]:
    """A chunk with everything that every chunk has."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "smol",
        "choices": list(choices),
        **fields,
    }


GUIDED = {"objective_weights": {"positivity": 1.0}, "beta": 1.0, "scoring": "exact", "checkpoint": "embedded"}
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}

CHAT_CHUNKS: list[dict[str, Any]] = [
    chat_chunk(
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}], generation_token="t" * 16
    ),
    chat_chunk([{"index": 0, "delta": {"content": "Rain ☔"}, "mavis": {"tokens": [token(3, 0.5), token(4, 0.25)]}}]),
    chat_chunk([{"index": 0, "delta": {"content": "\u2028sings é"}, "finish_reason": None}]),
    chat_chunk(
        [
            {
                "index": 0,
                "delta": {"content": "."},
                "finish_reason": "stop",
                "stop_reason": None,
                "mavis": {**GUIDED, "kl": 0.75, "values": {"positivity": 0.5}, "tokens": [token(5, -0.25)]},
            }
        ]
    ),
    chat_chunk([], usage=USAGE),
]
"""One choice, three traced tokens, an accent, an umbrella and U+2028, which is no line end in an event stream."""

CHAT_REPLY: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 7,
    "model": "smol",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Rain ☔\u2028sings é."},
            "finish_reason": "stop",
            "stop_reason": None,
            "mavis": {
                **GUIDED,
                "kl": 0.75,
                "values": {"positivity": 0.5},
                "tokens": [token(3, 0.5), token(4, 0.25), token(5, -0.25)],
            },
        }
    ],
    "usage": USAGE,
    "generation_token": "t" * 16,
}
"""What the chunks add up to."""

CHAT_STREAM = b": hello\n\n" + b"".join(map(event, CHAT_CHUNKS)) + DONE

COMPLETION_CHUNKS: list[dict[str, Any]] = [
    {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "smol", "choices": [choice]}
    for choice in (
        {"index": 1, "text": "two"},
        {"index": 0, "text": "one", "logprobs": {"tokens": ["one"], "token_logprobs": [-1.0], "text_offset": [0]}},
        {"index": 0, "text": "!", "logprobs": {"tokens": ["!"], "token_logprobs": [None], "text_offset": [3]}},
        {"index": 1, "text": "", "finish_reason": "length"},
        {"index": 0, "text": "", "finish_reason": "stop"},
    )
]
COMPLETION_STREAM = b"".join(map(event, COMPLETION_CHUNKS)) + DONE
