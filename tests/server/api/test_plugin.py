"""What we rely on in vLLM's HTTP side; these fail first when a seam moves."""

import inspect
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.routing import APIRoute
from vllm.entrypoints.generate.base.serving import GenerateBaseServing
from vllm.entrypoints.launchers.api_server.entry import build_and_serve, build_async_engine_client
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.launcher import setup_server
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.envs import disable_envs_cache

from server.api import plugin as ours
from server.api import routes
from server.errors import RequestError, StartupError
from server.start.vllm_arguments import ServeOptions, vllm_defaults
from server.start.vllm_server import parse_for_vllm
from tests.server.kit import catalogue, value_config
from valuemodels.contract.guidance import EXTRA_ARGS_KEY
from valuemodels.contract.guide_config import GuideConfig

EMBEDDED = ServeOptions(model=None)


@pytest.fixture
def _plugin_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    # An engine that another test started in this process has frozen what vLLM sees of the environment.
    disable_envs_cache()
    monkeypatch.setenv("VLLM_PLUGINS", "mavis")


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


@pytest.mark.usefixtures("_plugin_allowed")
def test_our_routes_replace_vllms_and_leave_the_others() -> None:
    app = build_app(parse_for_vllm(EMBEDDED, "/base"), ("generate",))
    served = [route for route in app.routes if isinstance(route, APIRoute)]
    for path, endpoint in (
        (routes.CHAT_PATH, routes.create_chat_completion),
        (routes.COMPLETIONS_PATH, routes.create_completion),
    ):
        assert [route.endpoint for route in served if route.path == path] == [endpoint]
    paths = {route.path for route in served}
    assert {"/v1/objectives", "/ready", "/health", "/v1/models", "/tokenize", "/v1/responses"} <= paths
    assert RequestError in app.exception_handlers
    assert "objective_weights" in app.openapi()["components"]["schemas"]["GuidedCompletionRequest"]["properties"]


def test_vllms_serving_classes_generate_through_the_client_that_they_hold() -> None:
    """`TokenCounter` takes its place there."""
    assert "self.engine_client = engine_client" in inspect.getsource(GenerateBaseServing.__init__)
    for serving in (OpenAIServingChat, OpenAIServingCompletion):
        source = inspect.getsource(serving)
        assert source.count(".generate(") == source.count("self.engine_client.generate(") == 1


def test_vllms_launchers_take_what_we_give() -> None:
    inspect.signature(build_and_serve).bind("engine", "address", "socket", "args", timeout_graceful_shutdown=1)
    inspect.signature(build_async_engine_client).bind("args")
    inspect.signature(setup_server).bind("args", reuse_port=False)


class Engine:
    """Answers `mavis_attach`."""

    def __init__(self, *objectives: str) -> None:
        self.objectives = objectives

    async def collective_rpc(self, method: str) -> list[dict[str, list[str]]]:
        assert method == "mavis_attach"
        return [{"objectives": list(self.objectives)}]


async def test_a_server_that_was_not_started_by_us_is_refused() -> None:
    with pytest.raises(StartupError, match="mavis serve"):
        await ours.MavisEndpoints().init_state(Engine(), Namespace(), Namespace(additional_config={}))


async def test_workers_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "value_config.json").write_text(value_config("a").model_dump_json())
    config = GuideConfig(checkpoints=(str(tmp_path),), base_model="b")
    args = Namespace(additional_config={EXTRA_ARGS_KEY: config.to_wire()})
    with pytest.raises(StartupError, match="loaded the objectives b"):
        await ours.MavisEndpoints().init_state(Engine("b"), Namespace(), args)


async def test_workers_without_a_guide_are_refused_with_the_reason(tmp_path: Path) -> None:
    class Silent(Engine):
        async def collective_rpc(self, method: str) -> list[Any]:
            return [None]

    (tmp_path / "value_config.json").write_text(value_config("a").model_dump_json())
    config = GuideConfig(checkpoints=(str(tmp_path),), base_model="b")
    args = Namespace(additional_config={EXTRA_ARGS_KEY: config.to_wire()})
    with pytest.raises(StartupError, match="no worker answered: is the value guide loaded"):
        await ours.MavisEndpoints().init_state(Silent(), Namespace(), args)


@pytest.mark.parametrize(("flag", "variable"), [(["k"], None), (None, "k"), (None, None)])
async def test_the_curl_line_at_the_start_knows_of_keys_wherever_they_were_set(
    flag: list[str] | None, variable: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """vLLM takes them from `--api-key` and from VLLM_API_KEY; without one a pasted line would be refused."""
    disable_envs_cache()
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    if variable is not None:
        monkeypatch.setenv("VLLM_API_KEY", variable)
    state = SimpleNamespace(server=SimpleNamespace(started=True))
    args = Namespace(
        api_key=flag, chat_template=None, host="127.0.0.1", port=1, uds=None, ssl_certfile=None, model="m",
        served_model_name=None,
    )  # fmt: skip
    await ours._announce(state, args, catalogue())
    assert ("Authorization: Bearer $VLLM_API_KEY" in capsys.readouterr().out) is bool(flag or variable)
