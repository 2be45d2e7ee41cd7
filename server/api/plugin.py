"""vLLM's own FastAPI app with our routes in it: the `vllm.endpoint_plugins` entry point.

    POST /v1/chat/completions  POST /v1/completions     vLLM's serving classes, guided; POST /invocations is either
    POST /v1/chat/completions/batch  /v1/responses  /v1/messages     vLLM's, under the operator's policy
    GET  /v1/objectives  /v1/profiles  /ready           what is offered, and whether it is there
    GET  /  /playground                                 the page with the sliders
    PATCH, GET  /v1/generations/{id}                    live control: see `server.api.generation_routes`

Requests without any field of ours take vLLM's path with nothing added to what goes in or comes out. Which of vLLM's
other routes are served stands in `server.api.route_table`.

Runs in the HTTP process. Does not import torch itself.
"""

import asyncio
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from server.api import generation_routes, playground_routes, refusing_routes, routes
from server.api.checkpoint_routes import checkpoint_router
from server.api.route_table import close_unknown_routes, generates, is_open, methods_of, replace_route
from server.api.schema import GenerationChange
from server.audit import Audit
from server.errors import BodyError, EngineLostError, RequestError, StartupError
from server.gate.drain import Drain
from server.gate.gate import Routes, place_gate
from server.gate.load import EngineLoad
from server.gate.refusal import refusal
from server.generations.gateway import EngineGateway
from server.generations.hot_checkpoints import HotCheckpoints
from server.generations.ownership import TOKEN_HEADER
from server.generations.peers import PeerDoor, Peers
from server.generations.registry import Registry
from server.generations.service import GenerationService
from server.metrics import WorkerStats, observe_error
from server.requests.admission import Admission
from server.requests.catalogue import Catalogue
from server.requests.fields import REQUEST_ID_HEADER, GuidanceFields
from server.start.banner import Address, ready_text
from server.start.server_options import SERVER_OPTIONS, ServerOptions
from server.workers.change_line import ChangeLine
from server.workers.heartbeat import Heartbeat
from server.workers.mailbox import Mailbox
from server.workers.rpc import call_workers
from valuemodels.contract.guidance import EXTRA_ARGS_KEY
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.value_config import ValueConfig, read_value_config

KNOWN_PARAMS = frozenset(
    {*GuidanceFields.model_fields, *GenerationChange.model_fields, REQUEST_ID_HEADER, TOKEN_HEADER}
    | {"request_id", "id", "use_beam_search", "prompt_embeds", "vllm_xargs", "n", "prompt"}
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
    return refusal(error, raw_request.url.path)


async def _refuse_http(raw_request: Request, error: Exception) -> Response:
    """The router's and FastAPI's own refusals, which are not in the envelope.

    Among them: JSON that nests too deep or holds a number of thousands of digits, unknown paths, wrong methods.
    """
    assert isinstance(error, HTTPException), f"registered for HTTPException, got {error!r}"
    if generates("POST", raw_request.url.path) and error.status_code == HTTPStatus.BAD_REQUEST:
        return await _refuse(raw_request, BodyError(f"the body cannot be read as JSON: {error.detail}"))
    status, headers = HTTPStatus(error.status_code), dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED:  # each route knows of its own methods alone
        headers["Allow"] = ", ".join(methods_of(raw_request.app, raw_request.scope))
    kind = status.phrase.replace(" ", "") + "Error"
    body = {"error": {"message": str(error.detail), "type": kind, "param": None, "code": status.value}}
    return JSONResponse(body, status, headers)


class MavisEndpoints:
    """vLLM's `EndpointPlugin`: it makes one of these, attaches the routes, and initialises the state once."""

    name = "mavis"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._app: FastAPI | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Replace vLLM's two generating routes and add ours."""
        self._app = app
        for router in (routes.router, refusing_routes.router, generation_routes.router, playground_routes.router):
            app.include_router(router)
        app.add_exception_handler(RequestError, _refuse)
        app.add_exception_handler(HTTPException, _refuse_http)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Read the catalogue, meet the workers, put both where the routes find them, and the gate before them.

        Raises:
            StartupError: the server was not started by `mavis serve`, or the workers hold other objectives.
        """
        wire, options = (args.additional_config or {}).get(EXTRA_ARGS_KEY), getattr(args, SERVER_OPTIONS, None)
        if wire is None or options is None or self._app is None:
            raise StartupError("the engine holds no value guide; start the server with `mavis serve`")
        config = GuideConfig.from_wire(wire)
        catalogue = _catalogue(options, config, [read_value_config(folder) for folder in config.checkpoints], 0)
        audit, drain, load = Audit(), Drain(), EngineLoad()
        state.mavis = service = await self._service(engine_client, options, config, catalogue, audit)
        for handler in _handlers(state, engine_client):
            handler.engine_client = EngineGateway(engine_client, service, load)
        state.mavis_drain = drain
        state.mavis_heartbeat = Heartbeat(service.mailbox, options.settings.stall_s, lambda: drain.running > 0)
        state.mavis_tasks = [asyncio.create_task(state.mavis_heartbeat.run())]
        if (process := options.process).sockets:
            door = PeerDoor(service.registry, service.control, options.keys.find)
            state.mavis_peer_door = await door.open(process.sockets[process.index])
        if process.index == 0:
            announced = _announce(state, args, catalogue, needs_key=bool(options.keys))
            state.mavis_tasks.append(asyncio.create_task(announced))
        close_unknown_routes(self._app)
        replace_route(self._app, routes.late_router)
        keys, limits = options.keys.shared_by(process.count), options.settings.gate_limits.shared_by(process.count)
        gate = {"keys": keys, "routes": Routes(is_open, generates), "limits": limits}
        place_gate(self._app, **gate, load=load, drain=drain, audit=audit)
        options.on_drain(drain, options.settings.drain_s)

    async def _service(
        self, engine_client: Any, options: ServerOptions, config: GuideConfig, catalogue: Catalogue, audit: Audit
    ) -> GenerationService:
        """What the routes share, once the workers are met; and the route that offers other checkpoints."""
        assert self._app is not None, "attach_router comes before"
        settings, process = options.settings, options.process
        attached = await _attached(engine_client, catalogue)
        # What the workers have counted is told by one of the HTTP processes.
        mailbox = Mailbox(engine_client, WorkerStats().observe) if process.index == 0 else Mailbox(engine_client)
        # What comes by a socket reaches one engine.
        line = ChangeLine(mailbox, attached[0].get("change_socket") if len(attached) == 1 else None)
        admission = Admission(settings.limits, engine_client.model_config.max_model_len)
        registry = Registry()
        service = GenerationService(
            catalogue,
            registry,
            mailbox,
            line,
            admission,
            audit,
            has_api_keys=bool(options.keys),
            peers=Peers(registry, process.others),
        )
        if settings.admin_key is not None and settings.values_root is not None:
            catalogue_of = partial(_catalogue, options)
            hot = HotCheckpoints(service, engine_client, config, settings.values_root, catalogue_of, audit)
            self._app.include_router(checkpoint_router(hot, settings.admin_key.get_secret_value()))
        return service


def _catalogue(
    options: ServerOptions, config: GuideConfig, checkpoints: Sequence[ValueConfig], offer: int
) -> Catalogue:
    """Of the checkpoints of a config, under the operator's settings."""
    profiles, is_hot = options.settings.all_profiles(config.checkpoints), options.settings.admin_key is not None
    return Catalogue(config, checkpoints, profiles, options.keys.profiles, offer, may_be_replaced=is_hot)


async def _attached(engine_client: Any, catalogue: Catalogue) -> list[Mapping[str, Any]]:
    """What the workers of every engine say of themselves."""
    try:
        attached = await call_workers(engine_client, "mavis_attach")
    except EngineLostError as error:
        raise StartupError(error.reason) from None
    names = [each["objectives"] for each in attached if tuple(each["objectives"]) != catalogue.policy.objectives]
    if names:
        raise StartupError(
            f"the workers loaded the objectives {', '.join(names[0])}, "
            f"the checkpoints on disk hold {', '.join(catalogue.policy.objectives)}; did they change just now?"
        )
    return attached


def _handlers(state: Any, engine_client: Any) -> list[Any]:
    """All of vLLM's serving objects that hand requests to the engine, whatever route they stand behind."""
    return [part for part in vars(state)["_state"].values() if getattr(part, "engine_client", None) is engine_client]


async def _announce(state: Any, args: Namespace, catalogue: Catalogue, *, needs_key: bool) -> None:
    """Print the address and a curl line once requests are answered."""
    while not getattr(getattr(state, "server", None), "started", False):  # noqa: ASYNC110, uvicorn has no event
        await asyncio.sleep(0.05)
    found = (getattr(state, name, None) for name in ("openai_serving_chat", "openai_serving_completion"))
    tokenizers = [handler.renderer.tokenizer for handler in found if handler is not None]
    chats = bool(args.chat_template or any(getattr(each, "chat_template", None) for each in tokenizers))
    address = Address(args.host or "", args.port, args.uds, is_tls=bool(args.ssl_certfile))
    model = (args.served_model_name or [args.model])[0]
    print(ready_text(address, model, catalogue, chats=chats, needs_key=needs_key), flush=True)
