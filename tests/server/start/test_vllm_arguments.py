"""From the command line to vLLM's arguments and environment."""

from argparse import Namespace
from typing import Any

import pytest

from server.errors import StartupError
from server.start import vllm_arguments as launch
from server.start.vllm_arguments import (
    ServeOptions,
    apply_guide,
    environment,
    parse_options,
    refuse_unsupported,
    vllm_argv,
    vllm_defaults,
)
from valuemodels.contract.engine_arguments import LOGITS_PROCESSOR, WORKER_EXTENSION
from valuemodels.contract.guidance import EXTRA_ARGS_KEY
from valuemodels.contract.guide_config import GuideConfig

EMBEDDED = ServeOptions(model=None)
OWN = ServeOptions(model="org/model", values=("v",))


def options(*arguments: str, values: tuple[str, ...] = ()) -> ServeOptions:
    return parse_options(arguments, values, compiles=False, settings={"value_cache_gib": None})


@pytest.mark.parametrize("arguments", [(), ("embedded",), ("--port", "8123"), ("embedded", "--port", "8123")])
def test_without_a_model_it_is_the_embedded_one(arguments: tuple[str, ...]) -> None:
    made = options(*arguments)
    assert made.model is None
    assert vllm_argv(made, "/cache/base") == ["serve", "/cache/base", *(a for a in arguments if a != "embedded")]


def test_every_flag_reaches_vllm_as_it_was_typed() -> None:
    flags = ["-tp", "2", "--max_model_len=4k", "--hf-overrides.a.b", "1", "--port", "1", "--", "--x"]
    assert vllm_argv(options("org/model", *flags, values=("v",)), "org/model") == ["serve", "org/model", *flags]


def test_host_and_port_may_stand_before_the_model() -> None:
    """The images' entry point ends in `--host 0.0.0.0`."""
    made = options("--host", "0.0.0.0", "--port=1", "org/model", "--seed", "1", values=("v",))
    assert made.model == "org/model"
    assert made.vllm_args == ("--host", "0.0.0.0", "--port=1", "--seed", "1")
    assert options("--host", "0.0.0.0").model is None
    assert options("--host").vllm_args == ("--host",)
    assert options("--seed", "1").vllm_args == ("--seed", "1")


def test_an_own_model_needs_its_own_values() -> None:
    with pytest.raises(StartupError, match="mavis serve org/model --values DIR"):
        options("org/model", "--port", "1")


def test_own_values_may_go_with_the_embedded_model() -> None:
    assert options("--port", "1", values=("mine",)).values == ("mine",)


@pytest.fixture(params=[False, True], ids=["gpu", "cpu"])
def on_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(launch, "serves_on_cpu", lambda: request.param)
    return bool(request.param)


def test_an_own_model_keeps_vllms_defaults_but_for_a_few(on_cpu: bool) -> None:
    cpu = {"enable_chunked_prefill": False} if on_cpu else {}
    assert vllm_defaults(OWN) == {"host": "127.0.0.1", "enforce_eager": True, **cpu}


def test_the_embedded_model_has_its_own_defaults() -> None:
    assert vllm_defaults(EMBEDDED)["served_model_name"] == ["smollm2-135m-instruct"]
    compiled = ServeOptions(model=None, compiles=True)
    assert vllm_defaults(compiled)["enforce_eager"] is False


@pytest.mark.parametrize(
    ("named", "allowed"),
    [({}, "a,b,mavis"), ({"VLLM_PLUGINS": "b, mavis"}, "b,mavis"), ({"VLLM_PLUGINS": ""}, "mavis")],
)
def test_naming_our_plugin_shuts_out_none_that_loaded_before(named: dict[str, str], allowed: str) -> None:
    """`VLLM_PLUGINS` is a list of all that may load, once it is there."""
    assert environment(OWN, named, ["a", "b", "a"])["VLLM_PLUGINS"] == allowed


def test_nothing_is_compiled_on_a_cpu_unless_asked_for(on_cpu: bool) -> None:
    disabled = "TORCH_COMPILE_DISABLE"
    assert environment(OWN, {}, []).get(disabled) == ("1" if on_cpu else None)
    assert disabled not in environment(ServeOptions(model=None, compiles=True), {}, [])
    assert environment(OWN, {disabled: "0"}, []).get(disabled, "0") == "0"


def test_the_embedded_model_asks_for_little_memory_unless_told_otherwise() -> None:
    assert environment(EMBEDDED, {}, [])["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(EMBEDDED, {"VLLM_CPU_KVCACHE_SPACE": "4"}, [])


def parsed(**changes: Any) -> Namespace:
    known: dict[str, Any] = {
        "model_tag": "base",
        "headless": False,
        "grpc": False,
        "api_server_count": None,
        "data_parallel_external_lb": False,
        "data_parallel_multi_port_external_lb": False,
        "data_parallel_hybrid_lb": False,
        "data_parallel_rank": None,
        "data_parallel_start_rank": None,
        "distributed_executor_backend": None,
        "data_parallel_backend": "mp",
        "pipeline_parallel_size": 1,
        "enable_batch_sharded_sampling": None,
        "worker_extension_cls": "",
        "additional_config": {},
        "logits_processors": None,
    }
    return Namespace(**{**known, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_tag": "other"}, "MODEL comes first"),
        ({"headless": True}, "--headless"),
        ({"grpc": True}, "--grpc"),
        ({"api_server_count": 0}, "--api-server-count"),
        ({"data_parallel_external_lb": True}, "--data-parallel-external-lb"),
        ({"data_parallel_multi_port_external_lb": True}, "--data-parallel-multi-port-external-lb"),
        ({"data_parallel_hybrid_lb": True}, "--data-parallel-hybrid-lb"),
        ({"data_parallel_rank": 0}, "--data-parallel-rank"),
        ({"data_parallel_start_rank": 1}, "--data-parallel-start-rank"),
        ({"distributed_executor_backend": "ray"}, "--distributed-executor-backend: got ray"),
        ({"data_parallel_backend": "ray"}, "--data-parallel-backend: got ray"),
        ({"pipeline_parallel_size": 2}, "--pipeline-parallel-size"),
        ({"enable_batch_sharded_sampling": True}, "--enable-batch-sharded-sampling"),
        ({"worker_extension_cls": "mine.Extension"}, "--worker-extension-cls"),
        ({"additional_config": {EXTRA_ARGS_KEY: {}}}, "--additional-config"),
    ],
)
def test_what_would_leave_answers_without_values_is_refused(
    changes: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    with pytest.raises(StartupError, match=named):
        refuse_unsupported(parsed(**changes), "base")


def test_a_pipeline_is_v2s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    refuse_unsupported(parsed(pipeline_parallel_size=2), "base")


def test_the_operators_own_processors_and_config_stay() -> None:
    args = parsed(additional_config={"theirs": 1}, logits_processors=["mine:Processor"], api_server_count=1)
    refuse_unsupported(args, "base")
    config = GuideConfig(checkpoints=("/v",), base_model="base")
    apply_guide(args, config)
    assert args.logits_processors == ["mine:Processor", LOGITS_PROCESSOR]
    assert args.worker_extension_cls == WORKER_EXTENSION
    assert args.additional_config == {"theirs": 1, EXTRA_ARGS_KEY: config.to_wire()}
