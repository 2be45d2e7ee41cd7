"""A streamed answer, decoded from its bytes: what `Stream` and `AsyncStream` share. No I/O."""

import json
from collections import deque
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from mavis_client._accumulate import joined_reply
from mavis_client._responses import error_info, parse_payload
from mavis_client._sse import ServerSentEvent, SSEDecoder
from mavis_client.errors import APIConnectionError, ErrorInfo, MavisError, ProtocolError, StreamError
from mavis_client.models import Chunk, Reply

ChunkT = TypeVar("ChunkT", bound=Chunk[Any])
ReplyT = TypeVar("ReplyT", bound=Reply[Any])

_DONE = b"[DONE]"
_MEDIA_TYPE = "text/event-stream"


class StreamReader(Generic[ChunkT, ReplyT]):
    """Bytes in, chunks out, and in the end the whole reply.

    The caller feeds bytes until `next_chunk` has something, and says with `end` that no more will come or with `fail`
    why not. Every stream ends in exactly one of two ways: `done` after `[DONE]`, or a failure that is raised after the
    chunks before it, and again whenever more is asked for.

    Attributes:
        generation_id, generation_token: None until a chunk has told them; without any field of guidance in the
            request, and without a token of its own, there is no token.
    """

    def __init__(self, chunk_type: type[ChunkT], reply_type: type[ReplyT]) -> None:
        self._chunk_type = chunk_type
        self._reply_type = reply_type
        self._decoder = SSEDecoder()
        self._events: deque[ServerSentEvent] = deque()
        self._payloads: list[Mapping[str, Any]] = []
        self._texts: list[str] = []
        self._failure: MavisError | None = None
        self.done = False
        self.generation_id: str | None = None
        self.generation_token: str | None = None

    @property
    def text(self) -> str:
        """Text so far of the choice with index 0."""
        return "".join(self._texts)

    def begin(self, content_type: str | None) -> None:
        """Judge the answer's `Content-Type`, before any byte of it."""
        if (content_type or "").partition(";")[0].strip().lower() != _MEDIA_TYPE:
            self.fail(ProtocolError(f"the answer's Content-Type is {content_type!r}, a stream's is {_MEDIA_TYPE!r}"))

    def feed(self, data: bytes) -> None:
        """Take in the next bytes, cut anywhere."""
        self._events.extend(self._decoder.feed(data))

    def end(self) -> None:
        """The bytes have ended."""
        self.fail(APIConnectionError("the stream ended before its [DONE]: the answer is not complete"))

    def fail(self, failure: MavisError) -> None:
        """The bytes broke off, or are of no use."""
        self._failure = self._failure or failure

    def drop(self) -> None:
        """Forget what has not been handed out: the caller has stopped reading."""
        self._events.clear()

    def next_chunk(self) -> ChunkT | None:
        """The next chunk; None where more bytes are needed first, or where `done`.

        Raises:
            StreamError: the server sent an error event.
            ProtocolError: an event is not a chunk.
            MavisError: what `fail` was told, after the chunks before it.
        """
        if self.done:
            return None
        if not self._events:
            if self._failure is not None:
                raise self._failure
            return None
        event = self._events.popleft()
        if event.data == _DONE:
            self.done = True
            return None
        try:
            return self._take(event)
        except MavisError as failure:
            self.drop()
            self.fail(failure)
            raise

    def reply(self) -> ReplyT:
        """The whole answer, as the same request gives it without streaming.

        Raises:
            MavisError: the stream broke.
            RuntimeError: it has not been read to its end.
        """
        if self._failure is not None:
            raise self._failure
        if not self.done:
            raise RuntimeError("the stream has not been read to its end")
        return parse_payload(joined_reply(self._payloads), self._reply_type, "stream")

    def _take(self, event: ServerSentEvent) -> ChunkT:
        try:
            payload = json.loads(event.data)
        except ValueError as error:
            raise ProtocolError(f"stream: an event is not JSON: {error} (got {event.data!r:.80})") from None
        if event.name == b"error" or (isinstance(payload, Mapping) and payload.get("error")):
            raise StreamError(error_info(payload) or ErrorInfo(str(payload)))
        chunk = parse_payload(payload, self._chunk_type, "stream")
        self._payloads.append(payload)
        self.generation_id = self.generation_id or chunk.id
        self.generation_token = self.generation_token or chunk.generation_token
        self._texts.append(chunk.text)
        return chunk
