"""From what the operator typed to what vLLM is told: pure functions, nothing is started here.

No torch, no vLLM.
"""

import os
from argparse import Namespace
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.errors import StartupError
from valuemodels.contract.engine_arguments import WORKER_EXTENSION, engine_arguments
from valuemodels.contract.guidance import EXTRA_ARGS_KEY
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.sources.cpu import base_dtype, serves_on_cpu
from valuemodels.sources.embedded import EMBEDDED

PLUGIN = "mavis"
VALUE_FLAGS = ("--host", "--port", "--uds", "--revision", "--config")
"""Flags of vLLM that are looked at before vLLM is imported; each takes one value."""
PLUGIN_GROUPS = (
    "vllm.general_plugins",
    "vllm.io_processor_plugins",
    "vllm.platform_plugins",
    "vllm.stat_logger_plugins",
)
"""Entry-point groups that vLLM loads where `VLLM_PLUGINS` is not set."""

_EMBEDDED_DEFAULTS: dict[str, Any] = {
    "served_model_name": ["smollm2-135m-instruct"],
    "max_model_len": 4096,
    "enable_auto_tool_choice": True,
    "tool_call_parser": "hermes",
    "tool_strict_level": "parameter",  # so small a model needs the grammar for its arguments
}
_EMBEDDED_KV_CACHE_GIB = "1"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What stood on the command line.

    Attributes:
        model: hub id or folder of the base model; None is the embedded one.
        values: hub ids or folders of value checkpoints; empty is the shipped one.
        compiles: let vLLM compile the model, which costs a slower start.
        settings: those of our settings that the command line gives.
        vllm_args: everything else, for vLLM.
    """

    model: str | None
    values: tuple[str, ...] = ()
    compiles: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    vllm_args: tuple[str, ...] = ()


def parse_options(
    arguments: Sequence[str], values: Iterable[str], *, compiles: bool, settings: Mapping[str, Any]
) -> ServeOptions:
    """Split MODEL from vLLM's flags.

    Args:
        arguments: what is left of the command line without our own options.
        settings: our settings' names -> what the command line says; None where it says nothing.

    Raises:
        StartupError: a model of the operator's own without value checkpoints for it.
    """
    named, rest = _take_model(arguments)
    model = None if named == EMBEDDED else named
    given = {name: value for name, value in settings.items() if value is not None}
    options = ServeOptions(model=model, values=tuple(values), compiles=compiles, settings=given, vllm_args=tuple(rest))
    if model is not None and not options.values:
        raise StartupError(f"give the value checkpoint that was trained for {model}: mavis serve {model} --values DIR")
    return options


def _take_model(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """MODEL and the rest. It stands first; only flags that we know to take one value may stand before it.

    Of others, only vLLM's parser knows whether what follows them is their value.
    """
    at = 0
    while at < len(arguments) and arguments[at].split("=")[0] in VALUE_FLAGS:
        at += 1 if "=" in arguments[at] else 2
    if at >= len(arguments) or arguments[at].startswith("-"):
        return None, list(arguments)
    return arguments[at], [*arguments[:at], *arguments[at + 1 :]]


def vllm_argv(options: ServeOptions, base_model: str) -> list[str]:
    """The arguments of `vllm serve`; the operator's come as they are."""
    return ["serve", base_model, *options.vllm_args]


def vllm_defaults(options: ServeOptions) -> dict[str, Any]:
    """What holds where neither the command line nor a `--config` file says otherwise: defaults of vLLM's parser."""
    embedded = {**_EMBEDDED_DEFAULTS, "dtype": base_dtype()} if options.model is None else {}
    # vLLM 0.32 cannot take back a seeded draw for an unfinished prompt on a CPU: its engine dies of it.
    cpu = {"enable_chunked_prefill": False} if serves_on_cpu() else {}
    return {"host": "127.0.0.1", "enforce_eager": not options.compiles, **cpu, **embedded}


def environment(options: ServeOptions, current: Mapping[str, str], installed_plugins: Iterable[str]) -> dict[str, str]:
    """Environment variables that vLLM reads while it is imported.

    Args:
        installed_plugins: names in `PLUGIN_GROUPS`. Naming our plugin, which endpoint plugins need, makes
            `VLLM_PLUGINS` a list of all that may load, so those that would load without it are named, too.
    """
    named = current.get("VLLM_PLUGINS")
    others = installed_plugins if named is None else named.split(",")
    plugins = dict.fromkeys(name.strip() for name in [*others, PLUGIN] if name.strip())
    changes = {"VLLM_PLUGINS": ",".join(plugins)}
    if serves_on_cpu() and not options.compiles:
        # A few of vLLM's functions are compiled even in eager mode: seconds at their first call, and an engine that
        # dies where there is no C++ compiler.
        changes["TORCH_COMPILE_DISABLE"] = current.get("TORCH_COMPILE_DISABLE", "1")
    if options.model is None and "VLLM_CPU_KVCACHE_SPACE" not in current:
        changes["VLLM_CPU_KVCACHE_SPACE"] = _EMBEDDED_KV_CACHE_GIB
    return changes


def refuse_unsupported(args: Namespace, base_model: str) -> None:
    """Refuse what would leave some answers without values.

    Raises:
        StartupError: naming the flag and what is allowed.
    """
    if args.model_tag != base_model:
        raise StartupError(f"MODEL comes first, before the flags: mavis serve {args.model_tag} ...")
    if args.headless or args.grpc:
        raise StartupError("--headless and --grpc are not supported: this server speaks HTTP, beside its engines")
    if (count := args.api_server_count) is not None and count < 1:
        raise StartupError(f"--api-server-count: got {count}, allowed is 1 or more")
    for flag in ("external-lb", "multi-port-external-lb", "hybrid-lb", "rank", "start-rank"):
        given = getattr(args, f"data_parallel_{flag.replace('-', '_')}")
        if given is not None and given is not False:
            raise StartupError(
                f"--data-parallel-{flag} is not supported: one HTTP process has to reach all engines; "
                "--data-parallel-size alone gives them to it"
            )
    for flag in ("distributed-executor", "data-parallel"):
        if getattr(args, f"{flag.replace('-', '_')}_backend") == "ray" and serves_on_cpu():
            raise StartupError(f"--{flag}-backend: got ray, allowed on a CPU is mp: vLLM offers Ray on GPUs alone")
    if args.pipeline_parallel_size > 1 and os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "0":
        raise StartupError(
            "--pipeline-parallel-size above 1 is not supported by vLLM's V1 runner here; its V2 runner, the default on "
            "GPUs, takes it"
        )
    if args.enable_batch_sharded_sampling:
        raise StartupError("--enable-batch-sharded-sampling is not supported: each rank would sample other rows")
    if args.worker_extension_cls not in ("", None):
        raise StartupError(f"--worker-extension-cls is taken by {WORKER_EXTENSION} and cannot be set")
    if EXTRA_ARGS_KEY in (args.additional_config or {}):
        raise StartupError(f'--additional-config: the key "{EXTRA_ARGS_KEY}" is reserved')


def take_api_keys(args: Namespace, environment: MutableMapping[str, str]) -> list[str]:
    """Take vLLM's API keys out of its hands: our gate asks for them, on more routes, and for those of a file as well.

    As with vLLM, the flag wins over the variable.
    """
    from_environment = environment.pop("VLLM_API_KEY", None)
    given, args.api_key = args.api_key, None
    return [key for key in (given or [from_environment]) if key]


def apply_guide(args: Namespace, config: GuideConfig) -> None:
    """Put the value guide into vLLM's parsed arguments, beside what the operator put there."""
    ours = engine_arguments(config, args.additional_config)
    ours["logits_processors"] = [*(args.logits_processors or []), *ours["logits_processors"]]
    for name, value in ours.items():
        assert hasattr(args, name), f"vLLM has no engine argument {name}"
        setattr(args, name, value)
