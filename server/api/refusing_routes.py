"""vLLM's other generating routes: they run under the operator's policy, and refuse our fields instead of ignoring them.

    POST /v1/chat/completions/batch  POST /v1/responses  POST /v1/messages

Runs in the HTTP process. Does not import torch itself.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from vllm.entrypoints.anthropic.api_router import create_messages as vllm_create_messages
from vllm.entrypoints.anthropic.protocol import AnthropicErrorResponse, AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.api_router import create_batch_chat_completion as vllm_create_batch
from vllm.entrypoints.openai.chat_completion.protocol import BatchChatCompletionRequest
from vllm.entrypoints.openai.responses.api_router import create_responses as vllm_create_responses
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.utils.api_utils import validate_json_request

from server.api.routes import ERRORS, service_of
from server.errors import FieldError
from server.requests.fields import GuidanceFields, refuse_unknown

ALLOWED = "leaving the field out: of the generating routes, /v1/chat/completions and /v1/completions take it"

router = APIRouter()


async def _own_fields(raw_request: Request) -> dict[str, Any]:
    """The body; what is no JSON object is left for vLLM to refuse.

    Raises:
        FieldError: it holds a field of ours.
    """
    try:
        body = await raw_request.json()  # kept by the request, so read once for everybody
    except (ValueError, RecursionError):
        return {}
    if not isinstance(body, dict):
        return {}
    for name in GuidanceFields.model_fields:
        if name in body:
            raise FieldError(name, body[name], ALLOWED)
    return body


Body = Annotated[dict[str, Any], Depends(_own_fields)]
_JSON = [Depends(validate_json_request)]
_ANTHROPICS_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": AnthropicErrorResponse} for status in ERRORS}


def _refuse_near_misses(body: dict[str, Any], known: type[Any]) -> None:
    xargs = body.get("vllm_xargs")
    extra = {name: value for name, value in body.items() if name not in known.model_fields}
    refuse_unknown(extra, xargs if isinstance(xargs, dict) else None)


@router.post("/v1/chat/completions/batch", dependencies=_JSON, responses=ERRORS)
async def create_batch(request: BatchChatCompletionRequest, raw_request: Request, body: Body) -> Response:
    """vLLM's batch of conversations."""
    _refuse_near_misses(body, BatchChatCompletionRequest)
    service_of(raw_request).admission.check_size(request.n or 1, len(request.messages))
    answer: Response = await vllm_create_batch(request, raw_request)
    return answer


@router.post("/v1/responses", dependencies=_JSON, responses=ERRORS)
async def create_responses(request: ResponsesRequest, raw_request: Request, body: Body) -> Response:
    """OpenAI's responses, as vLLM serves them."""
    _refuse_near_misses(body, ResponsesRequest)
    answer: Response = await vllm_create_responses(request, raw_request)
    return answer


@router.post("/v1/messages", dependencies=_JSON, responses=_ANTHROPICS_ERRORS)
async def create_messages(request: AnthropicMessagesRequest, raw_request: Request, body: Body) -> Response:
    """Anthropic's messages, as vLLM serves them."""
    _refuse_near_misses(body, AnthropicMessagesRequest)
    answer: Response = await vllm_create_messages(request, raw_request)
    return answer
