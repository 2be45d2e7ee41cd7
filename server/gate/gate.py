"""The gate: an ASGI middleware that every request passes before any route sees it.

    size of the headers -> API key -> draining, load, the key's share (routes that generate) -> size of the body

What it refuses has read nothing, registered nothing and is answered in vLLM's error envelope. A body is read here, up
to its limit, and handed on whole: every body of this server is one JSON text.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.audit import Audit
from server.errors import (
    ApiKeyError,
    BodyError,
    BusyError,
    DrainingError,
    HeaderError,
    RequestError,
    StartupError,
)
from server.gate.drain import Drain
from server.gate.load import EngineLoad
from server.gate.rates import Rates
from server.gate.refusal import refusal
from server.metrics import REFUSALS
from server.requests.keys import ApiKey, ApiKeys, current_key, secret_of

BODY_S = 60.0
DRAIN_RETRY_S = 5
_POLICY_VIOLATION = 1008  # of RFC 6455
_WITH_A_BODY = ("POST", "PATCH", "PUT")


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What one connection, and all of them together, may ask for.

    Attributes:
        max_header_bytes, max_body_bytes: of one request.
        max_waiting: sequences that wait for the engine; one more request is refused then.
        max_wait_s: the same by the time that it would probably wait; None looks at the number alone.
    """

    max_header_bytes: int
    max_body_bytes: int
    max_waiting: int
    max_wait_s: float | None

    def shared_by(self, processes: int) -> "GateLimits":
        """What is left to each of so many processes, which count for themselves."""
        return replace(self, max_waiting=math.ceil(self.max_waiting / processes))


@dataclass(frozen=True, slots=True)
class Routes:
    """What the gate has to know of them.

    Attributes:
        is_open: (method, path) -> no API key is wanted.
        generates: (method, path) -> it gives the engine work.
    """

    is_open: Callable[[str, str], bool]
    generates: Callable[[str, str], bool]


class Gate:
    """See the module."""

    def __init__(
        self,
        app: ASGIApp,
        keys: ApiKeys,
        routes: Routes,
        limits: GateLimits,
        load: EngineLoad,
        drain: Drain,
        audit: Audit,
    ) -> None:
        self.app = app
        self._keys = keys
        self._routes = routes
        self._limits = limits
        self._load = load
        self._drain = drain
        self._audit = audit
        self._rates = Rates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] == "websocket" and self._keys and self._keys.find(secret_of(Headers(scope=scope))) is None:
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        key: ApiKey | None = None
        try:
            headers = self._checked_headers(scope)
            key = self._authenticated(scope, headers)
            current_key.set(key)
            await self._admit(scope, receive, send, headers, key)
        except RequestError as error:
            self._note(scope, error, key)
            await refusal(error, _path(scope))(scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send, headers: Headers, key: ApiKey | None) -> None:
        if not self._routes.generates(scope["method"], _path(scope)):
            await self.app(scope, await self._with_body(scope, receive, headers), send)
            return
        self._check_load()
        if key is not None:
            self._rates.enter(key)
        self._drain.enter()
        try:
            body = await self._with_body(scope, receive, headers)
            await self.app(scope, body, send)
        finally:
            self._drain.leave()
            if key is not None:
                self._rates.leave(key)

    def _checked_headers(self, scope: Scope) -> Headers:
        limit = self._limits.max_header_bytes
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if (size := size + len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")) > limit:
            raise HeaderError(f"headers: got {size} bytes, allowed are {limit}, with the address")
        return Headers(scope=scope)

    def _authenticated(self, scope: Scope, headers: Headers) -> ApiKey | None:
        """The request's key; None where the server or the route wants none."""
        if not self._keys:
            return None
        key = self._keys.find(secret_of(headers))
        if key is None and scope["method"] != "OPTIONS" and not self._routes.is_open(scope["method"], _path(scope)):
            raise ApiKeyError
        return key

    def _check_load(self) -> None:
        limits, load = self._limits, self._load
        if self._drain.is_draining:
            raise DrainingError("the server is about to stop", DRAIN_RETRY_S)
        if load.waiting >= limits.max_waiting:
            raise BusyError(f"{load.waiting} sequences are waiting already", load.retry_after_s())
        if limits.max_wait_s is not None and (wait_s := load.estimated_wait_s()) > limits.max_wait_s:
            raise BusyError(f"this request would wait for about {wait_s:.0f} s", load.retry_after_s())

    async def _with_body(self, scope: Scope, receive: Receive, headers: Headers) -> Receive:
        """What gives the whole body at once, and then what else there is to receive."""
        if scope["method"] not in _WITH_A_BODY:
            return receive
        limit, told = self._limits.max_body_bytes, headers.get("Content-Length", "")
        if told.isdecimal() and int(told[:20]) > limit:
            raise _too_large(told[:20], limit)
        first = await _read_body(receive, limit)
        pending = [first]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        return replay

    def _note(self, scope: Scope, error: RequestError, key: ApiKey | None) -> None:
        reason, name = type(error).__name__, "none" if key is None else key.name
        REFUSALS.labels(reason, name).inc()
        client = scope.get("client")
        self._audit.refuse(
            "refused",
            reason=reason,
            key=name,
            address="-" if client is None else client[0],
            method=scope["method"][:16],
            path=_path(scope)[:160],
        )


def place_gate(app: Starlette, **parts: Any) -> None:
    """Have every request to an app pass a gate, inside of its other middlewares.

    Args:
        parts: of `Gate`.

    Raises:
        StartupError: the app would serve without it.
    """
    app.user_middleware.append(Middleware(Gate, **parts))
    app.middleware_stack = app.build_middleware_stack()  # vLLM's app comes with one that is built already
    layer: Any = app.middleware_stack
    while layer is not None and not isinstance(layer, Gate):
        layer = getattr(layer, "app", None)
    if layer is None:
        raise StartupError("the gate does not stand in front of the routes")


async def _read_body(receive: Receive, limit: int) -> Message:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return message  # the client has gone
                body += message.get("body", b"")
                if len(body) > limit:
                    raise _too_large(f"more than {limit}", limit)
                if not message.get("more_body", False):
                    return {"type": "http.request", "body": bytes(body), "more_body": False}
    except TimeoutError:
        raise BodyError(f"body: it did not arrive within {BODY_S:.0f} s") from None


def _too_large(size: str, limit: int) -> BodyError:
    return BodyError(f"body: got {size} bytes, allowed are {limit}")


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
