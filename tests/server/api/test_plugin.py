"""What we rely on in vLLM's HTTP side; these fail first when a seam moves."""

import inspect
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from vllm.entrypoints.generate.base.serving import GenerateBaseServing
from vllm.entrypoints.launchers.api_server.entry import build_and_serve, build_async_engine_client
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.launcher import setup_server
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.envs import disable_envs_cache

from server.api import plugin as ours
from server.api import refusing_routes, routes
from server.api.route_table import (
    CHAT_PATH,
    CHECKPOINTS_PATH,
    COMPLETIONS_PATH,
    INVOCATIONS_PATH,
    ROUTES,
    Kind,
    close_unknown_routes,
    generates,
    is_open,
    replace_route,
)
from server.audit import Audit
from server.errors import RequestError, StartupError
from server.gate.drain import Drain
from server.gate.gate import Routes, place_gate
from server.gate.load import EngineLoad
from server.requests.keys import ApiKeys
from server.start.server_options import SERVER_OPTIONS, ServerOptions
from server.start.settings import Settings
from server.start.vllm_arguments import ServeOptions, vllm_defaults
from server.start.vllm_server import parse_for_vllm
from tests.server.kit import GATE_LIMITS, api_keys, as_key, catalogue, value_config
from valuemodels.contract.guidance import EXTRA_ARGS_KEY
from valuemodels.contract.guide_config import GuideConfig

EMBEDDED = ServeOptions(model=None)


def test_all_our_defaults_are_flags_of_vllm_and_give_way_to_the_operators() -> None:
    args = parse_for_vllm(EMBEDDED, "/base")
    assert {name: getattr(args, name) for name in vllm_defaults(EMBEDDED)} == vllm_defaults(EMBEDDED)
    flags = "--host 0.0.0.0 --no-enforce-eager --served-model-name a b --max-model-len 2k --dtype float32"
    told = parse_for_vllm(ServeOptions(model=None, vllm_args=(*flags.split(), "--no-enable-auto-tool-choice")), "/b")
    assert (told.host, told.enforce_eager, told.served_model_name) == ("0.0.0.0", False, ["a", "b"])
    assert (told.max_model_len, told.dtype, told.enable_auto_tool_choice) == (2000, "float32", False)
    assert told.model_tag == "/b"


def test_unknown_flags_are_vllms_to_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_for_vllm(ServeOptions(model=None, vllm_args=("--no-such-flag",)), "/base")
    assert caught.value.code == 2
    assert "--no-such-flag" in capsys.readouterr().err


@pytest.fixture(scope="module")
def vllms_app() -> FastAPI:
    """vLLM's own app with our routes in it, as it is once the plugin has closed what it does not know."""
    # An engine that another test started in this process has frozen what vLLM sees of the environment.
    disable_envs_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_PLUGINS", "mavis")
        app: FastAPI = build_app(parse_for_vllm(EMBEDDED, "/base"), ("generate",))
    close_unknown_routes(app)
    replace_route(app, routes.late_router)
    gate = {"keys": api_keys(a={}), "routes": Routes(is_open, generates), "limits": GATE_LIMITS}
    place_gate(app, **gate, load=EngineLoad(), drain=Drain(), audit=Audit())
    app.state.args = parse_for_vllm(EMBEDDED, "/base")
    return app


def test_our_routes_replace_vllms_and_leave_the_others(vllms_app: FastAPI) -> None:
    served = [route for route in vllms_app.routes if isinstance(route, APIRoute)]
    for path, endpoint in (
        (CHAT_PATH, routes.create_chat_completion),
        (COMPLETIONS_PATH, routes.create_completion),
        (INVOCATIONS_PATH, routes.invoke),
        ("/v1/responses", refusing_routes.create_responses),
    ):
        assert [route.endpoint for route in served if route.path == path] == [endpoint]
    paths = {route.path for route in served}
    assert {"/v1/objectives", "/ready", "/health", "/v1/models", "/tokenize", "/v1/responses"} <= paths
    assert RequestError in vllms_app.exception_handlers
    assert "objective_weights" in vllms_app.openapi()["components"]["schemas"]["GuidedCompletionRequest"]["properties"]


def test_every_route_of_the_app_stands_in_the_table_and_the_other_way_round(vllms_app: FastAPI) -> None:
    """A new route of vLLM's is not served until somebody has said what it is to us."""
    there = {
        (method, str(getattr(route, "path", "")))
        for route in vllms_app.routes
        for method in (getattr(route, "methods", None) or ())
        if method != "HEAD"
    }
    assert there <= ROUTES.keys()
    only_with_a_flag = {("GET", "/tokenizer_info"), ("GET", CHECKPOINTS_PATH), ("PUT", CHECKPOINTS_PATH)}
    assert ROUTES.keys() - there == only_with_a_flag, "the table knows routes that vLLM has no more"


def test_a_route_that_a_later_vllm_adds_is_not_served() -> None:
    app = FastAPI()

    async def generate() -> None: ...

    generate.__module__ = "vllm.entrypoints.new.api_router"
    app.post("/v2/generate")(generate)
    app.post("/own")(test_a_route_that_a_later_vllm_adds_is_not_served)
    assert close_unknown_routes(app) == ["POST /v2/generate"]
    paths = {getattr(route, "path", "") for route in app.routes}
    assert "/v2/generate" not in paths and "/own" in paths


@pytest.mark.parametrize(("method", "path"), [pair for pair, kind in ROUTES.items() if kind is not Kind.OPEN])
async def test_every_route_but_the_open_ones_wants_the_key(vllms_app: FastAPI, method: str, path: str) -> None:
    """On vLLM's own app, which comes with a stack of middlewares that is built already: a gate was once not in it."""
    transport = httpx.ASGITransport(app=vllms_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-Api-Key": ""}, {"Authorization": "Basic secret-a"}):
            answer = await http.request(method, path.replace("{", "").replace("}", ""), headers=headers, json={})
            assert answer.status_code == 401, (method, path, headers)
            assert answer.json()["error"]["code"] == 401 and answer.headers["WWW-Authenticate"] == "Bearer"


async def test_unknown_paths_and_wrong_methods_are_in_the_envelope(vllms_app: FastAPI) -> None:
    transport = httpx.ASGITransport(app=vllms_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=as_key("a")) as http:
        unknown, wrong = await http.get("/v1/nothing"), await http.delete("/v1/generations/g")
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "NotFoundError")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, 405)
    assert wrong.headers["Allow"] == "GET, PATCH"


FIELDS: dict[str, Any] = {"objective_weights": {"a": 1}, "beta": 1, "kl_buget": 1, "vllm_xargs": {"mavis": 1}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions/batch": {"messages": [[{"role": "user", "content": "hi"}]], "model": "m"},
    "/v1/responses": {"input": "hi", "model": "m"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "model": "m", "max_tokens": 4},
}


def test_there_is_a_body_for_every_refusing_route() -> None:
    assert BODIES.keys() == {path for (_, path), kind in ROUTES.items() if kind is Kind.REFUSING}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("path", BODIES)
async def test_a_route_that_takes_none_of_our_fields_refuses_them(vllms_app: FastAPI, path: str, name: str) -> None:
    """They used to be ignored in silence: an unguided answer passed for a guided one."""
    transport = httpx.ASGITransport(app=vllms_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post(path, json={**BODIES[path], name: FIELDS[name]}, headers=as_key("a"))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(name)
    assert (answer.json().get("type") == "error") is (path == "/v1/messages")


def test_vllms_serving_classes_generate_through_the_client_that_they_hold() -> None:
    """`EngineGateway` takes its place there."""
    assert "self.engine_client = engine_client" in inspect.getsource(GenerateBaseServing.__init__)
    for serving in (OpenAIServingChat, OpenAIServingCompletion):
        source = inspect.getsource(serving)
        assert source.count(".generate(") == source.count("self.engine_client.generate(") == 1


def test_vllms_launchers_take_what_we_give() -> None:
    inspect.signature(build_and_serve).bind(
        "engine", "address", "socket", "args", timeout_graceful_shutdown=1, http=object
    )
    inspect.signature(build_async_engine_client).bind("args")
    inspect.signature(setup_server).bind("args", reuse_port=False)


OPTIONS = ServerOptions(Settings(), ApiKeys(), lambda drain, timeout_s: None)


def endpoints() -> ours.MavisEndpoints:
    made = ours.MavisEndpoints()
    made.attach_router(FastAPI())
    return made


class Engine:
    """Answers `mavis_attach`."""

    def __init__(self, *objectives: str) -> None:
        self.objectives = objectives

    async def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> list[dict[str, list[str]]]:
        assert method == "mavis_attach"
        return [{"objectives": list(self.objectives)}]


async def test_a_server_that_was_not_started_by_us_is_refused() -> None:
    with pytest.raises(StartupError, match="mavis serve"):
        await ours.MavisEndpoints().init_state(Engine(), Namespace(), Namespace(additional_config={}))


async def test_workers_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "value_config.json").write_text(value_config("a").model_dump_json())
    config = GuideConfig(checkpoints=(str(tmp_path),), base_model="b")
    args = Namespace(additional_config={EXTRA_ARGS_KEY: config.to_wire()}, **{SERVER_OPTIONS: OPTIONS})
    with pytest.raises(StartupError, match="loaded the objectives b"):
        await endpoints().init_state(Engine("b"), Namespace(), args)


async def test_workers_without_a_guide_are_refused_with_the_reason(tmp_path: Path) -> None:
    class Silent(Engine):
        async def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> list[Any]:
            return [None]

    (tmp_path / "value_config.json").write_text(value_config("a").model_dump_json())
    config = GuideConfig(checkpoints=(str(tmp_path),), base_model="b")
    args = Namespace(additional_config={EXTRA_ARGS_KEY: config.to_wire()}, **{SERVER_OPTIONS: OPTIONS})
    with pytest.raises(StartupError, match="no worker answered: is the value guide loaded"):
        await endpoints().init_state(Silent(), Namespace(), args)


@pytest.mark.parametrize("needs_key", [True, False])
async def test_the_curl_line_at_the_start_knows_of_keys(needs_key: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Without one a pasted line would be refused."""
    state = SimpleNamespace(server=SimpleNamespace(started=True))
    args = Namespace(
        chat_template=None, host="127.0.0.1", port=1, uds=None, ssl_certfile=None, model="m", served_model_name=None
    )
    await ours._announce(state, args, catalogue(), needs_key=needs_key)
    assert ("Authorization: Bearer $VLLM_API_KEY" in capsys.readouterr().out) is needs_key
