"""Several HTTP processes (`--api-server-count`): the one that holds a generation answers, whichever is asked.

The kernel gives a connection to any of them, and each knows the generations that it started. So it asks the others,
over a socket of theirs in a folder that only this server's user may enter: a frame of JSON there, one back, and the
end. Who asks is checked where the generation is held, by the headers that came with the request.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import asyncio
import json
import logging
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from server.errors import EngineLostError, RequestError
from server.gate.refusal import refusal
from server.generations.control import Caller, GenerationControl
from server.generations.ownership import TOKEN_HEADER
from server.generations.registry import Registry
from server.requests.keys import ApiKey, current_key, secret_of

logger = logging.getLogger("mavis.peers")

Held = Literal["running", "ended", "unknown"]

PATIENCE_S, LOOK_S = 30.0, 2.0
"""How long another process may take to answer: a change or a read waits for its workers; what it holds it knows."""
_LENGTH = struct.Struct("!I")
_ASKED_BY = ("Authorization", "X-Api-Key", TOKEN_HEADER)


class Peers:
    """The other HTTP processes, as this one sees them."""

    def __init__(self, registry: Registry, sockets: Iterable[Path] = (), patience_s: float = PATIENCE_S) -> None:
        """Args: `registry`: what this process holds; `sockets` of the others: without any nobody is asked."""
        self._registry = registry
        self._sockets = tuple(sockets)
        self._patience_s = patience_s

    async def is_running(self, generation_id: str) -> bool:
        """Whether one of them holds a running generation of this id."""
        return "running" in (await self._held(generation_id)).values()

    async def change(self, generation_id: str, body: bytes, caller: Caller) -> Response | None:
        """What the process answers that holds a generation which this one does not; None where that is nobody.

        Raises:
            EngineLostError: it has gone meanwhile.
        """
        return await self._forward(generation_id, caller, {"body": body.decode("latin-1")})

    async def read(self, generation_id: str, from_token: int, caller: Caller) -> Response | None:
        """As `change`, of what `GET` tells."""
        return await self._forward(generation_id, caller, {"from_token": from_token})

    async def _forward(self, generation_id: str, caller: Caller, what: Mapping[str, Any]) -> Response | None:
        if not self._sockets or self._registry.running(generation_id) is not None:
            return None
        held = await self._held(generation_id)
        # An id may have been given again since a generation of it ended, here or there.
        wanted: Held = "ended" if "running" not in held.values() else "running"
        holder = next((path for path, state in held.items() if state == wanted), None)
        if holder is None or (wanted == "ended" and self._registry.find(generation_id) is not None):
            return None
        headers = {name: caller.headers[name] for name in _ASKED_BY if name in caller.headers}
        asked = {"id": generation_id, "address": caller.address, "headers": headers, **what}
        try:
            answer = await self._ask(holder, asked, self._patience_s)
        except (OSError, EOFError, TimeoutError) as error:
            raise EngineLostError(f"the HTTP process that holds this generation does not answer: {error!r}") from None
        return Response(answer["body"], answer["status"], answer["headers"], "application/json")

    async def _held(self, generation_id: str) -> dict[Path, Held]:
        async def held(path: Path) -> Held:
            try:
                found: Held = (await self._ask(path, {"id": generation_id}, LOOK_S))["held"]
            except (OSError, EOFError, TimeoutError) as error:  # it starts, or has ended
                logger.info("another HTTP process does not answer: %r", error)
                return "unknown"
            return found

        return dict(zip(self._sockets, await asyncio.gather(*map(held, self._sockets)), strict=True))

    async def _ask(self, path: Path, asked: Mapping[str, Any], patience_s: float) -> dict[str, Any]:
        async with asyncio.timeout(patience_s):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                await _write(writer, asked)
                return await _read(reader)
            finally:
                writer.close()


class PeerDoor:
    """Answers the other HTTP processes."""

    def __init__(
        self, registry: Registry, control: GenerationControl, find_key: Callable[[str | None], ApiKey | None]
    ) -> None:
        """Args: `find_key`: the API key of a secret."""
        self._registry = registry
        self._control = control
        self._find_key = find_key

    async def open(self, path: Path) -> asyncio.Server:
        """Listen; what it returns has to be kept."""
        return await asyncio.start_unix_server(self._serve, path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await _read(reader)
            await _write(writer, await self._answer(asked) if "headers" in asked else self._held(asked["id"]))
        except (OSError, EOFError) as error:  # who asked has given up
            logger.info("another HTTP process has gone: %r", error)
        finally:
            writer.close()

    def _held(self, generation_id: str) -> dict[str, Held]:
        if self._registry.running(generation_id) is not None:
            return {"held": "running"}
        return {"held": "unknown" if self._registry.find(generation_id) is None else "ended"}

    async def _answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        caller = Caller(Headers(asked["headers"]), asked["address"])
        current_key.set(self._find_key(secret_of(caller.headers)))  # each connection has a context of its own
        try:
            response = await self._asked_for(asked, caller)
        except RequestError as error:
            response = refusal(error, "")
        headers = {name: value for name, value in response.headers.items() if name == "retry-after"}
        return {"status": response.status_code, "headers": headers, "body": bytes(response.body).decode()}

    async def _asked_for(self, asked: Mapping[str, Any], caller: Caller) -> JSONResponse:
        if "body" in asked:
            return JSONResponse(await self._control.change(asked["id"], asked["body"].encode("latin-1"), caller))
        return await self._control.describe(asked["id"], caller, JSONResponse, asked["from_token"])


async def _write(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    packed = json.dumps(message).encode()
    writer.write(_LENGTH.pack(len(packed)) + packed)
    await writer.drain()


async def _read(reader: asyncio.StreamReader) -> dict[str, Any]:
    """
    Raises:
        EOFError: the other end has hung up.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    message: dict[str, Any] = json.loads(await reader.readexactly(length))
    return message
