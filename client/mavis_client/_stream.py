"""A running generation: a context manager that iterates over chunks. Moves bytes; `StreamReader` reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeAlias

import httpx

from mavis_client._generation import AsyncGeneration, Generation
from mavis_client._keywords import ChangeKeywords, Weights
from mavis_client._requests import Call
from mavis_client._responses import connection_error
from mavis_client._stream_reader import ChunkT, ReplyT, StreamReader
from mavis_client.generations import Effective
from mavis_client.models import ChatCompletion, ChatCompletionChunk, Completion, CompletionChunk

if TYPE_CHECKING:
    from typing_extensions import Unpack

_NOT_OPEN = "the stream is not open: iterate inside its `with` block"
_USED = "the stream has been opened before: each call of the client gives one stream"
_NO_CHUNK = "the generation is not known yet: its id comes with the first chunk"
_NOT_STEERABLE = (
    "this generation cannot be steered: start it with objective_weights (0 will do), another field of guidance or a "
    "generation_token"
)


class Stream(Generic[ChunkT, ReplyT]):
    """A running generation: the request is sent on entering `with`, and leaving early ends it on the server, too.

    Iterating gives chunks as they come. A stream that breaks raises; it never just ends:

        StreamError: the server sent an error event.
        APIConnectionError: the bytes ended before `[DONE]`; APITimeoutError: they ceased to come.
        ProtocolError: what came was no chunk.
    """

    def __init__(
        self,
        open_response: Callable[[], httpx.Response],
        reader: StreamReader[ChunkT, ReplyT],
        exchange: Callable[[Call], httpx.Response],
    ) -> None:
        self._exchange = exchange
        self._open_response = open_response
        self._reader = reader
        self._response: httpx.Response | None = None
        self._incoming: Iterator[bytes] | None = None

    def __enter__(self) -> Stream[ChunkT, ReplyT]:
        if self._response is not None:
            raise RuntimeError(_USED)
        self._response = self._open_response()
        self._reader.begin(self._response.headers.get("Content-Type"))
        self._incoming = self._response.iter_bytes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._incoming = None
        self._reader.drop()
        if self._response is not None:
            self._response.close()

    def __iter__(self) -> Stream[ChunkT, ReplyT]:
        return self

    def __next__(self) -> ChunkT:
        while (chunk := self._reader.next_chunk()) is None:
            if self._reader.done:
                raise StopIteration
            self._receive()
        return chunk

    @property
    def text(self) -> str:
        """What has come so far of the text of the choice with index 0."""
        return self._reader.text

    def text_deltas(self) -> Iterator[str]:
        """The pieces of that text as they come, without empty ones."""
        for chunk in self:
            if chunk.text:
                yield chunk.text

    @property
    def generation(self) -> Generation:
        """The generation behind this stream.

        Raises:
            RuntimeError: no chunk has come yet, or it was started without anything that makes it steerable.
        """
        return Generation(self._exchange, *_identity(self._reader))

    def set_weights(self, weights: Weights | None = None, **keywords: Unpack[ChangeKeywords]) -> Effective:
        """Steer what comes next, while iterating: `stream.generation.set_weights`."""
        return self.generation.set_weights(weights, **keywords)

    def completion(self) -> ReplyT:
        """Read the rest; the whole answer, as the same request gives it without streaming. Raises as iterating does."""
        for _ in self:
            pass
        return self._reader.reply()

    def _receive(self) -> None:
        if self._incoming is None:
            raise RuntimeError(_NOT_OPEN)
        try:
            self._reader.feed(next(self._incoming))
        except StopIteration:
            self._reader.end()
        except httpx.RequestError as error:
            self._reader.fail(connection_error(error))


class AsyncStream(Generic[ChunkT, ReplyT]):
    """`Stream` for asyncio: `async with`, `async for`, `await stream.completion()`."""

    def __init__(
        self,
        open_response: Callable[[], Awaitable[httpx.Response]],
        reader: StreamReader[ChunkT, ReplyT],
        exchange: Callable[[Call], Awaitable[httpx.Response]],
    ) -> None:
        self._exchange = exchange
        self._open_response = open_response
        self._reader = reader
        self._response: httpx.Response | None = None
        self._incoming: AsyncIterator[bytes] | None = None

    async def __aenter__(self) -> AsyncStream[ChunkT, ReplyT]:
        if self._response is not None:
            raise RuntimeError(_USED)
        self._response = await self._open_response()
        self._reader.begin(self._response.headers.get("Content-Type"))
        self._incoming = self._response.aiter_bytes()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._incoming = None
        self._reader.drop()
        if self._response is not None:
            await self._response.aclose()

    def __aiter__(self) -> AsyncStream[ChunkT, ReplyT]:
        return self

    async def __anext__(self) -> ChunkT:
        while (chunk := self._reader.next_chunk()) is None:
            if self._reader.done:
                raise StopAsyncIteration
            await self._receive()
        return chunk

    @property
    def text(self) -> str:
        """What has come so far of the text of the choice with index 0."""
        return self._reader.text

    async def text_deltas(self) -> AsyncIterator[str]:
        """The pieces of that text as they come, without empty ones."""
        async for chunk in self:
            if chunk.text:
                yield chunk.text

    @property
    def generation(self) -> AsyncGeneration:
        """As `Stream.generation`."""
        return AsyncGeneration(self._exchange, *_identity(self._reader))

    async def set_weights(self, weights: Weights | None = None, **keywords: Unpack[ChangeKeywords]) -> Effective:
        """As `Stream.set_weights`."""
        return await self.generation.set_weights(weights, **keywords)

    async def completion(self) -> ReplyT:
        """Read the rest; the whole answer, as the same request gives it without streaming. Raises as iterating does."""
        async for _ in self:
            pass
        return self._reader.reply()

    async def _receive(self) -> None:
        if self._incoming is None:
            raise RuntimeError(_NOT_OPEN)
        try:
            self._reader.feed(await anext(self._incoming))
        except StopAsyncIteration:
            self._reader.end()
        except httpx.RequestError as error:
            self._reader.fail(connection_error(error))


def _identity(reader: StreamReader[ChunkT, ReplyT]) -> tuple[str, str]:
    if reader.generation_id is None:
        raise RuntimeError(_NO_CHUNK)
    if reader.generation_token is None:
        raise RuntimeError(_NOT_STEERABLE)
    return reader.generation_id, reader.generation_token


ChatStream: TypeAlias = Stream[ChatCompletionChunk, ChatCompletion]
CompletionStream: TypeAlias = Stream[CompletionChunk, Completion]
AsyncChatStream: TypeAlias = AsyncStream[ChatCompletionChunk, ChatCompletion]
AsyncCompletionStream: TypeAlias = AsyncStream[CompletionChunk, Completion]


def chat_reader() -> StreamReader[ChatCompletionChunk, ChatCompletion]:
    """A fresh reader of a `POST /v1/chat/completions` stream."""
    return StreamReader(ChatCompletionChunk, ChatCompletion)


def completion_reader() -> StreamReader[CompletionChunk, Completion]:
    """A fresh reader of a `POST /v1/completions` stream."""
    return StreamReader(CompletionChunk, Completion)
