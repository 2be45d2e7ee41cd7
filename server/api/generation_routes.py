"""`PATCH` and `GET /v1/generations/{id}`: the routes of live control.

Every generation can be changed that was started with a field of ours (whatever its value), with a token of the
client's choice, or that the operator's defaults guide. All others are vLLM's alone, and unknown here: a client that
sent nothing of ours has no use for a token, and pays nothing for the possibility. One that can be changed but is plain
costs an entry here and in the worker; nothing is scored, read or dropped for it until its first change. From then on
its tokens are valued, also where a later change sets all weights to 0.

Runs in the HTTP process. No torch.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from server.api.headers import owner_headers
from server.api.route_table import GENERATION_PATH
from server.api.schema import GenerationChange, GenerationChanged, GenerationState
from server.errors import BodyError
from server.generations.control import Caller
from server.generations.service import GenerationService
from server.requests.change import MAX_BODY_BYTES

CHANGE_GENERATION, READ_GENERATION = "change_generation", "read_generation"
"""Names of the operations, in `/openapi.json`."""

_STATUSES = (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.INTERNAL_SERVER_ERROR)
_CHANGE_STATUSES = (HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT, *_STATUSES)
_CHANGE_BODY = {"required": True, "content": {"application/json": {"schema": GenerationChange.model_json_schema()}}}

FromToken = Annotated[int, Query(ge=0, lt=2**31, description="Of each choice, the first token to tell of one by one.")]

router = APIRouter(dependencies=[Depends(owner_headers)])


def _responses(model: type[BaseModel], errors: Iterable[HTTPStatus]) -> dict[int | str, dict[str, Any]]:
    responses: dict[int | str, dict[str, Any]] = {HTTPStatus.OK.value: {"model": model}}
    return responses | {status.value: {"model": ErrorResponse} for status in errors}


@router.patch(
    GENERATION_PATH,
    responses=_responses(GenerationChanged, _CHANGE_STATUSES),
    operation_id=CHANGE_GENERATION,
    openapi_extra={"requestBody": _CHANGE_BODY},
)
async def change_generation(generation_id: str, raw_request: Request) -> Response:
    """Change the weights, the strength or the KL budget of a running generation."""
    body, caller, service = await _bounded_body(raw_request), _caller(raw_request), _service(raw_request)
    if (elsewhere := await service.peers.change(generation_id, body, caller)) is not None:
        return elsewhere
    return JSONResponse(await service.control.change(generation_id, body, caller))


@router.get(
    GENERATION_PATH,
    operation_id=READ_GENERATION,
    responses=_responses(GenerationState, (HTTPStatus.BAD_REQUEST, *_STATUSES)),
)
async def read_generation(generation_id: str, raw_request: Request, from_token: FromToken = 0) -> Response:
    """What holds in a generation now, and the values of its tokens so far; until minutes after its end."""
    caller, service = _caller(raw_request), _service(raw_request)
    if (elsewhere := await service.peers.read(generation_id, from_token, caller)) is not None:
        return elsewhere
    return await service.control.describe(generation_id, caller, JSONResponse, from_token)


async def _bounded_body(raw_request: Request) -> bytes:
    body = b""
    async for piece in raw_request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise BodyError(f"the body has more than {MAX_BODY_BYTES} bytes")
    return body


def _caller(raw_request: Request) -> Caller:
    client = raw_request.client
    return Caller(raw_request.headers, "-" if client is None else f"{client.host}:{client.port}")


def _service(raw_request: Request) -> GenerationService:
    service: GenerationService = raw_request.app.state.mavis
    return service
