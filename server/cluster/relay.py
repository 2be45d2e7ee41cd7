"""Hands requests to the server beside it, byte by byte, and those about a generation to whichever server holds it.

Each of the servers knows the generations that it started. One that is asked for another's has the others asked; who may
read and steer it is checked where it is held, by the headers that come along.

Runs in a process of the cluster's, on its event loop. No Ray, no torch, no vLLM.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import httpx
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Lifespan

from server.errors import ReplicaLostError
from server.gate.refusal import refusal
from server.requests.change import MAX_BODY_BYTES

logger = logging.getLogger("mavis.cluster")

_CONNECT_S = 10.0
_RETRY_S = 30
"""By when the cluster may have replaced a replica."""
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# RFC 9110, 7.6.1: of this connection alone. A length is set again by whoever sends the body.
_OF_THE_CONNECTION = {
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer"),
    *(b"transfer-encoding", b"upgrade", b"content-length"),
}

RawHeaders = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A short request, whole."""

    method: str
    target: bytes
    headers: RawHeaders
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A short answer, whole."""

    status: int
    headers: RawHeaders
    body: bytes


AskAll = Callable[[Asked], Awaitable[Sequence[Answer]]]
"""Asks every server; those that are gone are left out. It raises TimeoutError where one does not answer."""
MetricsOfAll = Callable[[], Awaitable[Mapping[str, str]]]
"""The metrics of every server, by its name. It raises TimeoutError where one does not answer."""


class Relay:
    """The door before one server.

    Attributes:
        app: what it answers with.
    """

    def __init__(
        self, url: str, ask_all: AskAll, metrics_of_all: MetricsOfAll, lifespan: Lifespan[Starlette] | None = None
    ) -> None:
        """Args: `url` of the server; `lifespan`: what has to be before the first request and after the last."""
        self._url = httpx.URL(url)
        self._ask_all = ask_all
        self._metrics_of_all = metrics_of_all
        # Texts take as long as they take; how many there may be at once is the server's to say.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=_CONNECT_S), limits=httpx.Limits(max_connections=None), trust_env=False
        )
        self.app = Starlette(
            routes=[
                Route("/metrics", self._metrics, methods=["GET"]),
                Route("/v1/generations/{path:path}", self._of_a_generation, methods=_METHODS),
                Route("/{path:path}", self._pass_on, methods=_METHODS),
            ],
            lifespan=lifespan,
        )

    async def ask(self, asked: Asked) -> Answer:
        """What the server beside this answers.

        Raises:
            httpx.TransportError: nothing.
        """
        request = httpx.Request(asked.method, self._at(asked.target), headers=list(asked.headers), content=asked.body)
        response = await self._client.send(request)
        # httpx has undone the encoding.
        headers = [(name, value) for name, value in _kept(response.headers.raw) if name.lower() != b"content-encoding"]
        return Answer(response.status_code, headers, response.content)

    async def metrics(self) -> str:
        """The metrics of the server beside this.

        Raises:
            httpx.TransportError: it does not answer.
        """
        return (await self.ask(Asked("GET", b"/metrics", (), b""))).body.decode()

    async def _of_a_generation(self, request: Request) -> Response:
        asked = Asked(request.method, _target(request), _headers_of(request), await _start_of_body(request))
        try:
            answer = await self.ask(asked)
        except httpx.TransportError as error:
            return _lost(error)
        if answer.status == httpx.codes.NOT_FOUND:
            try:
                others = await self._ask_all(asked)
            except TimeoutError as error:
                return _lost(error)
            answer = next((each for each in others if each.status != httpx.codes.NOT_FOUND), answer)
        return _with_headers(Response(answer.body, answer.status), answer.headers)

    async def _pass_on(self, request: Request) -> Response:
        length = _length(request.headers.raw)
        body = request.stream() if length or "transfer-encoding" in request.headers else None
        headers = [*_headers_of(request), *length]
        sent = httpx.Request(request.method, self._at(_target(request)), headers=headers, content=body)
        try:
            response = await self._client.send(sent, stream=True)
        except httpx.TransportError as error:
            return _lost(error)
        answer = StreamingResponse(_bytes_of(response), response.status_code)
        return _with_headers(answer, [*_kept(response.headers.raw), *_length(response.headers.raw)])

    async def _metrics(self, request: Request) -> Response:
        try:
            return PlainTextResponse(merged(await self._metrics_of_all()))
        except TimeoutError as error:
            return _lost(error)

    def _at(self, target: bytes) -> httpx.URL:
        return self._url.copy_with(raw_path=target)


def merged(texts: Mapping[str, str]) -> str:
    """Prometheus's text of several servers as one, each sample with one label more: `replica`, the server's name."""
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for found in text_string_to_metric_families(text):
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            for sample in found.samples:
                family.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)

    class All:
        def collect(self) -> list[Metric]:
            return list(families.values())

    registry = CollectorRegistry()
    registry.register(All())
    return generate_latest(registry).decode()


def _target(request: Request) -> bytes:
    """Path and query as the client wrote them."""
    path: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    query: bytes = request.scope.get("query_string", b"")
    return path + b"?" + query if query else path


def _headers_of(request: Request) -> RawHeaders:
    """The client's headers, and where it is."""
    kept = [(name, value) for name, value in _kept(request.headers.raw) if name.lower() != b"x-forwarded-for"]
    before = request.headers.getlist("x-forwarded-for")
    came_from = [*before, *([request.client.host] if request.client else [])]
    return [*kept, (b"x-forwarded-for", ", ".join(came_from).encode("latin-1"))] if came_from else kept


def _kept(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() not in _OF_THE_CONNECTION]


def _length(headers: RawHeaders) -> RawHeaders:
    """The header that tells a body's length, where there is one."""
    return [(name, value) for name, value in headers if name.lower() == b"content-length"]


async def _start_of_body(request: Request) -> bytes:
    """The body; of one that is longer than a server takes for a change so much that it is refused."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            return body[: MAX_BODY_BYTES + 1]
    return body


async def _bytes_of(response: httpx.Response) -> AsyncIterator[bytes]:
    """As they come. A client that goes away ends this, and with it the request at the server."""
    try:
        async for part in response.aiter_raw():  # what breaks off there breaks off here
            yield part
    finally:
        await response.aclose()


def _with_headers(response: Response, headers: RawHeaders) -> Response:
    kept = [(name.lower(), value) for name, value in headers]
    names = {name for name, _ in kept}
    response.raw_headers = [*kept, *((name, value) for name, value in response.raw_headers if name not in names)]
    return response


def _lost(error: httpx.TransportError | TimeoutError) -> Response:
    whose = "another replica" if isinstance(error, TimeoutError) else "this replica"
    logger.error("the server of %s does not answer: %r", whose, error)
    return refusal(ReplicaLostError(f"the server of {whose} does not answer", _RETRY_S), "")
