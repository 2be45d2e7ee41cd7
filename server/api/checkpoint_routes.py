"""`GET` and `PUT /v1/checkpoints`: which value checkpoints are served, and others in their place as texts are written.

There only where the operator has set `MAVIS_ADMIN_KEY`, which they want in place of an API key, and
`MAVIS_VALUES_ROOT`.

Runs in the HTTP process. No torch.
"""

import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from server.api.offer_schema import CheckpointList
from server.api.route_table import CHECKPOINTS_PATH
from server.errors import ApiKeyError, BodyError
from server.generations.hot_checkpoints import HotCheckpoints
from server.requests.keys import digest_of, secret_of

_ERRORS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.CONFLICT, HTTPStatus.INTERNAL_SERVER_ERROR)


_CHOICE = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"checkpoints": {"type": "array", "items": {"type": "string"}}},
                "required": ["checkpoints"],
                "additionalProperties": False,
            }
        }
    },
}


def checkpoint_router(hot: HotCheckpoints, admin_key: str) -> APIRouter:
    """The routes, for who shows this key."""
    router, expected = APIRouter(), digest_of(admin_key)
    responses: dict[int | str, dict[str, Any]] = {HTTPStatus.OK.value: {"model": CheckpointList}}
    responses |= {status.value: {"model": ErrorResponse} for status in _ERRORS}

    def admitted(raw_request: Request) -> None:
        secret = secret_of(raw_request.headers)
        if secret is None or not secrets.compare_digest(digest_of(secret), expected):
            raise ApiKeyError

    @router.get(CHECKPOINTS_PATH, responses=responses)
    async def list_checkpoints(raw_request: Request) -> JSONResponse:
        """The value checkpoints that are served, and those that might be."""
        admitted(raw_request)
        return JSONResponse(hot.listing())

    @router.put(CHECKPOINTS_PATH, responses=responses, openapi_extra={"requestBody": _CHOICE})
    async def choose_checkpoints(raw_request: Request) -> JSONResponse:
        """Serve other checkpoints from now on; answers once they are. Texts under way keep what they began with."""
        admitted(raw_request)
        body = await _object_of(raw_request.json)
        client = raw_request.client
        address = "-" if client is None else f"{client.host}:{client.port}"
        return JSONResponse(await hot.replace(body["checkpoints"], address))

    return router


async def _object_of(read: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    """
    Raises:
        BodyError: the body is no object with `checkpoints` alone.
    """
    try:
        body = await read()
    except ValueError as error:
        raise BodyError(f"the body cannot be read as JSON: {error}") from None
    if not isinstance(body, dict) or body.keys() != {"checkpoints"}:
        raise BodyError('the body has to be an object with one field: {"checkpoints": ["name", ...]}')
    return body
