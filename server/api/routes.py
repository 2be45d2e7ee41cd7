"""The generating routes and what belongs to them: vLLM's serving classes, guided.

    POST /v1/chat/completions  POST /v1/completions  POST /invocations (either of them, as SageMaker asks)
    GET  /v1/objectives        GET  /ready

Runs in the HTTP process. Does not import torch itself.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import load_aware_call, validate_json_request, with_cancellation
from vllm.entrypoints.serve.utils.orca_metrics import metrics_header
from vllm.entrypoints.serve.utils.sse_keep_alive import with_sse_keep_alive

from server.api.generation_routes import CHANGE_GENERATION, READ_GENERATION
from server.api.headers import generation_headers
from server.api.offer_schema import EvaluationList, ObjectiveList, ProfileList
from server.api.route_table import CHAT_PATH, COMPLETIONS_PATH, INVOCATIONS_PATH
from server.api.schema import GuidedChatCompletionResponse, GuidedCompletionResponse, Readiness
from server.errors import BodyError
from server.generations.apart import worked_out
from server.generations.ownership import TOKEN_HEADER
from server.generations.service import GenerationService
from server.requests.keys import current_key
from server.requests.models import GuidedChatCompletionRequest, GuidedCompletionRequest

LOAD_FORMAT_HEADER = "endpoint-load-metrics-format"
GENERATING = [Depends(validate_json_request), Depends(generation_headers)]
ERRORS: dict[int | str, dict[str, Any]] = {
    status.value: {"model": ErrorResponse}
    for status in (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.NOT_IMPLEMENTED,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
}


_OWNER = {"generation_id": "$response.body#/id", f"header.{TOKEN_HEADER}": "$response.body#/generation_token"}
_LINKS = {name: {"operationId": name, "parameters": _OWNER} for name in (READ_GENERATION, CHANGE_GENERATION)}


def _responses(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What a generating route answers; its generation is reached by what stands in the answer."""
    fine = {"model": model, "content": {"text/event-stream": {}}, "links": _LINKS}
    return {HTTPStatus.OK.value: fine, **ERRORS}


Generate = Callable[[Any, Request], Awaitable[Any]]
Route = TypeVar("Route", bound=Callable[..., Awaitable[Response]])
router = APIRouter()
late_router = APIRouter()
"""Attached last: something else would take the place of what is in it."""


def _as_vllm_serves(route: Route) -> Route:
    """The decorators of vLLM's own generating routes: cancelled with the client, counted in the server's load."""
    served: Route = with_cancellation(load_aware_call(route))
    return served


@router.post(CHAT_PATH, dependencies=GENERATING, responses=_responses(GuidedChatCompletionResponse))
@_as_vllm_serves
async def create_chat_completion(request: GuidedChatCompletionRequest, raw_request: Request) -> Response:
    """OpenAI's chat completions, guided by `objective_weights`."""
    if (handler := raw_request.app.state.openai_serving_chat) is None:
        raise NotImplementedError("The model does not support Chat Completions API")
    return await _answer(handler.create_chat_completion, request, raw_request, "chatcmpl-")


@router.post(COMPLETIONS_PATH, dependencies=GENERATING, responses=_responses(GuidedCompletionResponse))
@_as_vllm_serves
async def create_completion(request: GuidedCompletionRequest, raw_request: Request) -> Response:
    """OpenAI's completions, guided by `objective_weights`."""
    if (handler := raw_request.app.state.openai_serving_completion) is None:
        raise NotImplementedError("The model does not support Completions API")
    return await _answer(handler.create_completion, request, raw_request, "cmpl-")


@late_router.post(INVOCATIONS_PATH, dependencies=GENERATING, responses=_responses(GuidedChatCompletionResponse))
async def invoke(raw_request: Request) -> Response:
    """A chat completion where the body has `messages`, a completion where it has a `prompt`."""
    body = await raw_request.json()
    fields = body if isinstance(body, dict) else {}
    try:
        if "messages" in fields:
            return await create_chat_completion(GuidedChatCompletionRequest.model_validate(body), raw_request)
        if "prompt" in fields:
            return await create_completion(GuidedCompletionRequest.model_validate(body), raw_request)
    except ValidationError as error:
        raise RequestValidationError(error.errors(), body=body) from None
    raise BodyError(f"the body is no request; {INVOCATIONS_PATH} takes an object with messages or with a prompt")


@router.get("/v1/objectives", responses={HTTPStatus.OK.value: {"model": ObjectiveList}})
async def list_objectives(raw_request: Request) -> JSONResponse:
    """The objectives that `objective_weights` may name, their bounds and where they come from."""
    return JSONResponse(service_of(raw_request).catalogue.listing(current_key.get()))


@router.get("/v1/profiles", responses={HTTPStatus.OK.value: {"model": ProfileList}})
async def list_profiles(raw_request: Request) -> JSONResponse:
    """The named sets of fields that `profile` may name."""
    return JSONResponse(service_of(raw_request).catalogue.listed_profiles(current_key.get()))


@router.get("/v1/evaluations", responses={HTTPStatus.OK.value: {"model": EvaluationList}})
async def list_evaluations(raw_request: Request) -> JSONResponse:
    """What was measured of the checkpoints: which weights buy what, at what cost."""
    return JSONResponse(service_of(raw_request).catalogue.evaluations())


@router.get(
    "/ready",
    responses={status.value: {"model": Readiness} for status in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE)},
)
async def ready(raw_request: Request) -> JSONResponse:
    """200 while the engine answers, the value models are loaded and new requests are taken, else 503."""
    state = raw_request.app.state
    try:
        await state.engine_client.check_health()
    except Exception:  # whatever it is, it means no
        return _unavailable("the engine is not healthy")
    if getattr(state, "mavis", None) is None:
        return _unavailable("value models are not loaded")
    if state.mavis_drain.is_draining:
        return _unavailable("the server is about to stop")
    if state.mavis_heartbeat.is_stalled:
        return _unavailable(f"no step of the engine has ended for {state.mavis_heartbeat.stall_s:g} s")
    return JSONResponse({"status": "ready"})


def _unavailable(reason: str) -> JSONResponse:
    return JSONResponse({"status": "unavailable", "reason": reason}, HTTPStatus.SERVICE_UNAVAILABLE)


async def _answer(generate: Generate, request: Any, raw_request: Request, id_prefix: str) -> Response:
    """Check, register, generate, add token and values, forget. The same for both routes, streamed and not."""
    service = service_of(raw_request)
    async with AsyncExitStack() as life:
        generation = await life.enter_async_context(
            service.generation(request, raw_request.headers, raw_request.url.path, id_prefix)
        )
        result = await generate(request, raw_request)
        if generation is None or isinstance(result, ErrorResponse):
            return _as_vllm_answers(result, raw_request)
        if isinstance(result, BaseModel):
            body = result.model_dump()
            await service.complete(generation, body)
            return await worked_out(generation.weight, lambda: _json(body, raw_request))
        events = _kept_alive(service.stream(generation).rewrite(result), raw_request)
        return _ClosingStream(events, life.pop_all())


def _as_vllm_answers(result: Any, raw_request: Request) -> Response:
    """What vLLM's own route makes of its serving class's result."""
    if isinstance(result, ErrorResponse):
        return JSONResponse(content=result.model_dump(), status_code=result.error.code)
    if isinstance(result, BaseModel):
        return _json(result.model_dump(), raw_request)
    return StreamingResponse(content=_kept_alive(result, raw_request), media_type="text/event-stream")


def _json(body: dict[str, Any], raw_request: Request) -> JSONResponse:
    return JSONResponse(content=body, headers=metrics_header(raw_request.headers.get(LOAD_FORMAT_HEADER, "")))


def _kept_alive(events: AsyncGenerator[str, None], raw_request: Request) -> AsyncGenerator[str, None]:
    interval_s = getattr(raw_request.app.state.args, "sse_keep_alive_interval", 0)
    kept: AsyncGenerator[str, None] = with_sse_keep_alive(events, float(interval_s))
    return kept


class _ClosingStream(StreamingResponse):
    """A stream that is closed when the client goes, not when the garbage collector comes: closing aborts.

    It takes over the generation's life from the route, and ends it after its own.
    """

    def __init__(self, events: AsyncGenerator[str, None], life: AsyncExitStack) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._events = events
        self._life = life

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._life, aclosing(self._events):
            await super().__call__(scope, receive, send)


def service_of(raw_request: Request) -> GenerationService:
    """What the plugin has put there."""
    service: GenerationService = raw_request.app.state.mavis
    return service
