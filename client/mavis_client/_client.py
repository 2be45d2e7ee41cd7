"""`MavisClient`: the blocking client. Moves bytes; what they say is decided in the modules that do no I/O."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import httpx

from mavis_client._connection import DEFAULT_TIMEOUT, httpx_arguments
from mavis_client._generation import Generation
from mavis_client._keywords import ChatKeywords, CompletionKeywords, Messages, Prompt, Timeout
from mavis_client._requests import HEALTH, OBJECTIVES, READY, Call, chat_call, completion_call
from mavis_client._responses import connection_error, parse_reply, says_no, status_error
from mavis_client._retries import RetryPolicy
from mavis_client._stream import ChatStream, CompletionStream, Stream, chat_reader, completion_reader
from mavis_client.errors import MavisError
from mavis_client.models import ChatCompletion, Completion
from mavis_client.objectives import Objective, ObjectiveList

if TYPE_CHECKING:
    from typing_extensions import Unpack


class MavisClient:
    """A connection pool to one server. Threads may share it; close it, or use it in a `with` block.

    Every method raises the exceptions of `mavis_client.errors`; `_retries` says which failures are tried again first.

    Args:
        base_url: the server's address, without `/v1`.
        api_key: sent as a bearer token.
        timeout: seconds, or an `httpx.Timeout`: the longest silence, not the whole call's length.
        max_retries: attempts after the first.
        transport: takes the place of the network, such as `httpx.MockTransport` in tests.

    Raises:
        ValueError: `base_url`, `api_key` or `max_retries` cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._retries = RetryPolicy(max_retries)
        self._sleep: Callable[[float], object] = time.sleep
        self._http = httpx.Client(**httpx_arguments(base_url, api_key, timeout), transport=transport)

    def chat(self, messages: Messages, **keywords: Unpack[ChatKeywords]) -> ChatCompletion:
        """Answer a user's message, or a conversation. `ChatKeywords` lists the keywords."""
        return parse_reply(self._exchange(chat_call(messages, keywords, stream=False)), ChatCompletion)

    def chat_stream(self, messages: Messages, **keywords: Unpack[ChatKeywords]) -> ChatStream:
        """`chat`, chunk by chunk: `with client.chat_stream(...) as stream: for chunk in stream: ...`."""
        call = chat_call(messages, keywords, stream=True)
        return Stream(partial(self._exchange, call, stream=True), chat_reader(), self._exchange)

    def complete(self, prompt: Prompt, **keywords: Unpack[CompletionKeywords]) -> Completion:
        """Continue a text, or several. `CompletionKeywords` lists the keywords."""
        return parse_reply(self._exchange(completion_call(prompt, keywords, stream=False)), Completion)

    def complete_stream(self, prompt: Prompt, **keywords: Unpack[CompletionKeywords]) -> CompletionStream:
        """`complete`, chunk by chunk."""
        call = completion_call(prompt, keywords, stream=True)
        return Stream(partial(self._exchange, call, stream=True), completion_reader(), self._exchange)

    def generation(self, generation_id: str, token: str | None = None) -> Generation:
        """A running generation, to be read and steered. Nothing is sent by this.

        Args:
            generation_id: the answer's `id`: "chatcmpl-" or "cmpl-" and the `request_id`.
            token: its generation token; not needed where the server has API keys.
        """
        return Generation(self._exchange, generation_id, token)

    def objectives(self) -> list[Objective]:
        """What the server can steer by."""
        return parse_reply(self._exchange(OBJECTIVES), ObjectiveList).data

    def health(self) -> bool:
        """Whether the server is alive. One attempt; False where nothing answers or the answer is 503."""
        return self._probe(HEALTH)

    def ready(self) -> bool:
        """Whether engine and value models are up, so that a generation would be taken. Answers as `health` does."""
        return self._probe(READY)

    def close(self) -> None:
        """Close all connections. The client cannot be used afterwards."""
        self._http.close()

    def __enter__(self) -> MavisClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _probe(self, call: Call) -> bool:
        try:
            self._exchange(call)
        except MavisError as failure:
            if says_no(failure):
                return False
            raise
        return True

    def _exchange(self, call: Call, *, stream: bool = False) -> httpx.Response:
        """A successful answer, after as many attempts as the policy allows; unread where `stream`."""
        retries_done = 0
        while True:
            try:
                return self._attempt(call, stream)
            except MavisError as failure:
                wait_s = self._retries.wait_s(failure, call.repeat, retries_done)
                if wait_s is None:
                    raise
            self._sleep(wait_s)
            retries_done += 1

    def _attempt(self, call: Call, stream: bool) -> httpx.Response:
        try:
            response = self._http.send(call.on(self._http), stream=stream)
            if response.is_success:
                return response
            try:
                response.read()
            finally:
                response.close()
        except httpx.RequestError as error:
            raise connection_error(error) from error
        raise status_error(response, self._retries.clock())
