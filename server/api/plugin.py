"""vLLM's own FastAPI app with our routes in it: the `vllm.endpoint_plugins` entry point.

    POST /v1/chat/completions  POST /v1/completions     vLLM's serving classes, guided
    GET  /v1/objectives        GET  /ready
    PATCH, GET  /v1/generations/{id}                    live control: see `server.api.generation_routes`

Requests without any field of ours take vLLM's path with nothing added to what goes in or comes out. Everything else
that vLLM serves (models, tokenize, health, metrics, ...) is untouched.

Runs in the HTTP process. Does not import torch itself.
"""

import asyncio
from argparse import Namespace
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from vllm import envs

from server.api import generation_routes, routes
from server.api.routes import CHAT_PATH, COMPLETIONS_PATH
from server.api.schema import GenerationChange
from server.errors import BodyError, EngineLostError, RequestError, StartupError, envelope
from server.generations.ownership import TOKEN_HEADER
from server.generations.registry import Registry
from server.generations.service import GenerationService
from server.generations.token_counter import TokenCounter
from server.metrics import WorkerStats, observe_error
from server.requests.catalogue import Catalogue
from server.requests.fields import REQUEST_ID_HEADER, GuidanceFields
from server.start.banner import Address, ready_text
from server.workers.mailbox import Mailbox
from server.workers.rpc import first_answer
from valuemodels.contract.guidance import EXTRA_ARGS_KEY
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.value_config import read_value_config

KNOWN_PARAMS = frozenset(
    {*GuidanceFields.model_fields, *GenerationChange.model_fields, REQUEST_ID_HEADER, TOKEN_HEADER}
    | {"request_id", "id", "use_beam_search", "prompt_embeds", "vllm_xargs"}
)


def _metric_label(param: str | None) -> str:
    """The field's first part where it is one that we know; a client may write anything there."""
    if param is None:
        return "none"
    head = param.split(".")[0]
    return head if head in KNOWN_PARAMS else "other"


async def _refuse(raw_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError), f"registered for RequestError, got {error!r}"
    observe_error(_metric_label(error.param))
    status, body = envelope(error)
    return JSONResponse(body, status)


async def _refuse_body(raw_request: Request, error: Exception) -> Response:
    """FastAPI's answer to JSON that nests too deep or holds a number of thousands of digits is not in the envelope."""
    assert isinstance(error, HTTPException), f"registered for HTTPException, got {error!r}"
    if raw_request.url.path in (CHAT_PATH, COMPLETIONS_PATH) and error.status_code == HTTPStatus.BAD_REQUEST:
        return await _refuse(raw_request, BodyError(f"the body cannot be read as JSON: {error.detail}"))
    return await http_exception_handler(raw_request, error)


class MavisEndpoints:
    """vLLM's `EndpointPlugin`: it makes one of these, attaches the routes, and initialises the state once."""

    name = "mavis"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Replace vLLM's two generating routes and add ours."""
        app.include_router(routes.router)
        app.include_router(generation_routes.router)
        app.add_exception_handler(RequestError, _refuse)
        app.add_exception_handler(HTTPException, _refuse_body)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Read the catalogue, meet the workers, and put both where the routes find them.

        Raises:
            StartupError: the server was not started by `mavis serve`, or the workers hold other objectives.
        """
        wire = (args.additional_config or {}).get(EXTRA_ARGS_KEY)
        if wire is None:
            raise StartupError("the engine holds no value guide; start the server with `mavis serve`")
        config = GuideConfig.from_wire(wire)
        catalogue = Catalogue(config, [read_value_config(folder) for folder in config.checkpoints])
        try:
            attached = first_answer(await engine_client.collective_rpc("mavis_attach"))
        except EngineLostError as error:
            raise StartupError(error.reason) from None
        if tuple(attached["objectives"]) != catalogue.policy.objectives:
            raise StartupError(
                f"the workers loaded the objectives {', '.join(attached['objectives'])}, "
                f"the checkpoints on disk hold {', '.join(catalogue.policy.objectives)}; did they change just now?"
            )
        registry, mailbox = Registry(), Mailbox(engine_client, WorkerStats().observe)
        state.mavis = GenerationService(catalogue, registry, mailbox, has_api_keys=_has_api_keys(args))
        for handler in _handlers(state):
            handler.engine_client = TokenCounter(engine_client, registry)
        state.mavis_announcement = asyncio.create_task(_announce(state, args, catalogue))


def _has_api_keys(args: Namespace) -> bool:
    """Whether vLLM wants an API key: by its flag, or by its environment variable."""
    return any(args.api_key or [envs.VLLM_API_KEY])


def _handlers(state: Any) -> list[Any]:
    """vLLM's serving objects behind our two routes; a model may lack either."""
    found = (getattr(state, name, None) for name in ("openai_serving_chat", "openai_serving_completion"))
    return [handler for handler in found if handler is not None]


async def _announce(state: Any, args: Namespace, catalogue: Catalogue) -> None:
    """Print the address and a curl line once requests are answered."""
    while not getattr(getattr(state, "server", None), "started", False):  # noqa: ASYNC110, uvicorn has no event
        await asyncio.sleep(0.05)
    tokenizers = [handler.renderer.tokenizer for handler in _handlers(state)]
    chats = bool(args.chat_template or any(getattr(each, "chat_template", None) for each in tokenizers))
    address = Address(args.host or "", args.port, args.uds, is_tls=bool(args.ssl_certfile))
    model = (args.served_model_name or [args.model])[0]
    print(ready_text(address, model, catalogue, chats=chats, needs_key=_has_api_keys(args)), flush=True)
