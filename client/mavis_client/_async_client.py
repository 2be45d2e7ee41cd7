"""`AsyncMavisClient`: `MavisClient` for asyncio. Moves bytes; the modules that do no I/O decide what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import httpx

from mavis_client._connection import DEFAULT_TIMEOUT, httpx_arguments
from mavis_client._generation import AsyncGeneration
from mavis_client._keywords import ChatKeywords, CompletionKeywords, Messages, Prompt, Timeout
from mavis_client._requests import HEALTH, OBJECTIVES, READY, Call, chat_call, completion_call
from mavis_client._responses import connection_error, parse_reply, says_no, status_error
from mavis_client._retries import RetryPolicy
from mavis_client._stream import AsyncChatStream, AsyncCompletionStream, AsyncStream, chat_reader, completion_reader
from mavis_client.errors import MavisError
from mavis_client.models import ChatCompletion, Completion
from mavis_client.objectives import Objective, ObjectiveList

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncMavisClient:
    """`MavisClient` for asyncio: the same arguments and methods, awaited; streams open with `async with`.

    One event loop may use it; close it, or use it in an `async with` block.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._retries = RetryPolicy(max_retries)
        self._sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
        self._http = httpx.AsyncClient(**httpx_arguments(base_url, api_key, timeout), transport=transport)

    async def chat(self, messages: Messages, **keywords: Unpack[ChatKeywords]) -> ChatCompletion:
        """Answer a user's message, or a conversation. `ChatKeywords` lists the keywords."""
        return parse_reply(await self._exchange(chat_call(messages, keywords, stream=False)), ChatCompletion)

    def chat_stream(self, messages: Messages, **keywords: Unpack[ChatKeywords]) -> AsyncChatStream:
        """`chat`, chunk by chunk: `async with client.chat_stream(...) as stream: async for chunk in stream: ...`."""
        call = chat_call(messages, keywords, stream=True)
        return AsyncStream(partial(self._exchange, call, stream=True), chat_reader(), self._exchange)

    async def complete(self, prompt: Prompt, **keywords: Unpack[CompletionKeywords]) -> Completion:
        """Continue a text, or several. `CompletionKeywords` lists the keywords."""
        return parse_reply(await self._exchange(completion_call(prompt, keywords, stream=False)), Completion)

    def complete_stream(self, prompt: Prompt, **keywords: Unpack[CompletionKeywords]) -> AsyncCompletionStream:
        """`complete`, chunk by chunk."""
        call = completion_call(prompt, keywords, stream=True)
        return AsyncStream(partial(self._exchange, call, stream=True), completion_reader(), self._exchange)

    def generation(self, generation_id: str, token: str | None = None) -> AsyncGeneration:
        """A running generation, to be read and steered. Nothing is sent by this.

        Args:
            generation_id: the answer's `id`: "chatcmpl-" or "cmpl-" and the `request_id`.
            token: its generation token; not needed where the server has API keys.
        """
        return AsyncGeneration(self._exchange, generation_id, token)

    async def objectives(self) -> list[Objective]:
        """What the server can steer by."""
        return parse_reply(await self._exchange(OBJECTIVES), ObjectiveList).data

    async def health(self) -> bool:
        """Whether the server is alive. One attempt; False where nothing answers or the answer is 503."""
        return await self._probe(HEALTH)

    async def ready(self) -> bool:
        """Whether engine and value models are up, so that a generation would be taken. Answers as `health` does."""
        return await self._probe(READY)

    async def close(self) -> None:
        """Close all connections. The client cannot be used afterwards."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncMavisClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _probe(self, call: Call) -> bool:
        try:
            await self._exchange(call)
        except MavisError as failure:
            if says_no(failure):
                return False
            raise
        return True

    async def _exchange(self, call: Call, *, stream: bool = False) -> httpx.Response:
        """A successful answer, after as many attempts as the policy allows; unread where `stream`."""
        retries_done = 0
        while True:
            try:
                return await self._attempt(call, stream)
            except MavisError as failure:
                wait_s = self._retries.wait_s(failure, call.repeat, retries_done)
                if wait_s is None:
                    raise
            await self._sleep(wait_s)
            retries_done += 1

    async def _attempt(self, call: Call, stream: bool) -> httpx.Response:
        try:
            response = await self._http.send(call.on(self._http), stream=stream)
            if response.is_success:
                return response
            try:
                await response.aread()
            finally:
                await response.aclose()
        except httpx.RequestError as error:
            raise connection_error(error) from error
        raise status_error(response, self._retries.clock())
