"""Live control: a generation by its id, read and changed while it runs. Moves bytes; both faces share the calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import httpx

from mavis_client._keywords import ChangeKeywords, Weights
from mavis_client._requests import Call, change_call, generation_call
from mavis_client._responses import parse_reply
from mavis_client.generations import Effective, GenerationState

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Generation:
    """A generation on the server, made by `client.generation(id, token)` or found as `stream.generation`.

    Both methods raise `NotFoundError` where the server does not know it (any more), `PermissionDeniedError` where the
    key or token is not its own; `set_weights` also `ConflictError` once it has ended, `BadRequestError` for a value
    that the server does not allow.
    """

    def __init__(self, exchange: Callable[[Call], httpx.Response], generation_id: str, token: str | None) -> None:
        self.id = generation_id
        self._exchange = exchange
        self._token = token

    def get(self, from_token: int = 0) -> GenerationState:
        """What holds now, and the trace so far; until 5 minutes after the end.

        Args:
            from_token: of each choice, the first token that is told of; a long trace comes in several answers.
        """
        return parse_reply(self._exchange(generation_call(self.id, self._token, from_token)), GenerationState)

    def set_weights(self, weights: Weights | None = None, **keywords: Unpack[ChangeKeywords]) -> Effective:
        """Change what is named: `weights` key by key, `beta`, `kl_budget`; all choices, or `choice` alone.

        None as a value is back to the operator's default. The change holds once this returns.
        """
        return parse_reply(self._exchange(change_call(self.id, self._token, weights, keywords)), Effective)


class AsyncGeneration:
    """`Generation` for asyncio: the same methods, awaited."""

    def __init__(
        self, exchange: Callable[[Call], Awaitable[httpx.Response]], generation_id: str, token: str | None
    ) -> None:
        self.id = generation_id
        self._exchange = exchange
        self._token = token

    async def get(self, from_token: int = 0) -> GenerationState:
        """As `Generation.get`."""
        return parse_reply(await self._exchange(generation_call(self.id, self._token, from_token)), GenerationState)

    async def set_weights(self, weights: Weights | None = None, **keywords: Unpack[ChangeKeywords]) -> Effective:
        """As `Generation.set_weights`."""
        return parse_reply(await self._exchange(change_call(self.id, self._token, weights, keywords)), Effective)
