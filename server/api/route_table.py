"""Every route that this server answers, and what it is to us. A route of vLLM's that does not stand here is not served.

So a new route in a later vLLM cannot generate past the operator's policy, take our fields in silence or want no key:
somebody has to put it into this table first. Routes of the operator's own plugins are the operator's.

Runs in the HTTP process. No torch, no vLLM.
"""

import logging
from enum import Enum

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from server.playground.files import PAGES

logger = logging.getLogger("mavis.routes")


class Kind(Enum):
    """What a route is to us.

    GUIDED: generates, takes our fields.
    REFUSING: generates under the operator's policy, refuses our fields with 400.
    QUIET: generates nothing, wants the API key where the server has any.
    OPEN: the same, and wants no key.
    """

    GUIDED = "guided"
    REFUSING = "refusing"
    QUIET = "quiet"
    OPEN = "open"


CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
INVOCATIONS_PATH = "/invocations"
# An id is what the client chose with `X-Request-Id`; that may hold slashes.
GENERATION_PATH = "/v1/generations/{generation_id:path}"
CHECKPOINTS_PATH = "/v1/checkpoints"

ROUTES: dict[tuple[str, str], Kind] = {
    ("POST", CHAT_PATH): Kind.GUIDED,
    ("POST", COMPLETIONS_PATH): Kind.GUIDED,
    ("POST", INVOCATIONS_PATH): Kind.GUIDED,
    ("POST", "/v1/chat/completions/batch"): Kind.REFUSING,
    ("POST", "/v1/responses"): Kind.REFUSING,
    ("POST", "/v1/messages"): Kind.REFUSING,
    ("PATCH", GENERATION_PATH): Kind.QUIET,
    ("GET", GENERATION_PATH): Kind.QUIET,
    ("GET", "/v1/objectives"): Kind.QUIET,
    ("GET", "/v1/profiles"): Kind.QUIET,
    ("GET", "/v1/evaluations"): Kind.QUIET,
    ("GET", "/v1/models"): Kind.QUIET,
    ("GET", "/v1/responses/{response_id}"): Kind.QUIET,
    ("POST", "/v1/responses/{response_id}/cancel"): Kind.QUIET,
    ("POST", "/v1/messages/count_tokens"): Kind.QUIET,
    ("POST", "/v1/chat/completions/render"): Kind.QUIET,
    ("POST", "/v1/messages/render"): Kind.QUIET,
    ("POST", "/v1/completions/render"): Kind.QUIET,
    ("POST", "/v1/responses/render"): Kind.QUIET,
    ("POST", "/tokenize"): Kind.QUIET,
    ("POST", "/detokenize"): Kind.QUIET,
    ("GET", "/tokenizer_info"): Kind.QUIET,
    # Of the operator's alone: they want a key of their own, and are there where it is set.
    ("GET", CHECKPOINTS_PATH): Kind.OPEN,
    ("PUT", CHECKPOINTS_PATH): Kind.OPEN,
    ("GET", "/health"): Kind.OPEN,
    ("GET", "/ready"): Kind.OPEN,
    ("GET", "/metrics"): Kind.OPEN,
    ("GET", "/ping"): Kind.OPEN,
    ("POST", "/ping"): Kind.OPEN,
    ("GET", "/load"): Kind.OPEN,
    ("GET", "/version"): Kind.OPEN,
    ("GET", "/openapi.json"): Kind.OPEN,
    ("GET", "/docs"): Kind.OPEN,
    ("GET", "/docs/oauth2-redirect"): Kind.OPEN,
    ("GET", "/redoc"): Kind.OPEN,
    **{("GET", path): Kind.OPEN for path in PAGES},
}

_OPERATORS = ("serve.dev.", "serve.lora.", "serve.profile.", "serve.fault_tolerance.", "rl.")
"""Modules of `vllm.entrypoints` whose routes are there only where the operator asked for them; they want the key."""
_GENERATING = (Kind.GUIDED, Kind.REFUSING)


def generates(method: str, path: str) -> bool:
    """Whether a request there gives the engine work."""
    return ROUTES.get((method, path)) in _GENERATING


def is_open(method: str, path: str) -> bool:
    """Whether a request there needs no API key."""
    return ROUTES.get(("GET" if method == "HEAD" else method, path)) is Kind.OPEN


def close_unknown_routes(app: FastAPI) -> list[str]:
    """Take out of the app every route of vLLM's that the table does not know.

    Returns:
        "METHOD path" of those.
    """
    closed = [route for route in app.routes if not _is_served(route)]
    app.router.routes[:] = [route for route in app.router.routes if route not in closed]
    names = [f"{method} {_path(route)}" for route in closed for method in sorted(getattr(route, "methods", None) or ())]
    if names:
        logger.info("these routes of vLLM's are not served: %s", ", ".join(sorted(names)))
    return names


def replace_route(app: FastAPI, router: APIRouter) -> None:
    """Attach routes in front of all others of their paths."""
    ours = {route.path for route in router.routes if isinstance(route, Route)}
    app.router.routes[:] = [route for route in app.router.routes if _path(route) not in ours]
    app.include_router(router)


def methods_of(app: FastAPI, scope: Scope) -> list[str]:
    """The methods that a request's path has, of all routes together."""
    matching = (route for route in app.routes if route.matches(scope)[0] is not Match.NONE)
    return sorted({method for route in matching for method in getattr(route, "methods", None) or ()})


def _is_served(route: BaseRoute) -> bool:
    module = getattr(getattr(route, "endpoint", None), "__module__", "") or ""
    if not module.startswith(("vllm.", "model_hosting_container_standards.")):
        return True
    if module.removeprefix("vllm.entrypoints.").startswith(_OPERATORS):
        return True
    methods = getattr(route, "methods", None) or ()
    return any((method, _path(route)) in ROUTES for method in methods)


def _path(route: BaseRoute) -> str:
    return route.path if isinstance(route, Route) else str(getattr(route, "path", ""))
