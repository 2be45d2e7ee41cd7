"""vLLM's own server, started by us: its flags parsed, its routes replaced by ours, its stop bounded.

Runs in the process that becomes the HTTP server. vLLM is imported inside the functions: what can be refused without it
is refused before.
"""

import asyncio
import logging
import re
import socket
from argparse import Namespace
from collections.abc import Callable, Mapping, MutableSequence
from dataclasses import dataclass
from typing import Any

import typer
import uvloop
from pydantic import ValidationError

from server.errors import StartupError
from server.start.cores import keep_off_the_workers_cores
from server.start.http_protocol import bounded_http
from server.start.preflight import port_sentence
from server.start.server_options import SERVER_OPTIONS, ServerOptions
from server.start.stopping import Stop, StoppableLoop
from server.start.vllm_arguments import PLUGIN, ServeOptions, vllm_argv, vllm_defaults
from valuemodels.contract.errors import first_line
from valuemodels.sources.cpu import serves_on_cpu

logger = logging.getLogger("mavis.server")

OPEN_CONNECTIONS_S = 3  # how long a stop waits for answers under way; vLLM has aborted them by then
BAD_START, FAILED = 2, 1
_SENTENCE_END = re.compile(r"(?<=\.)\s+(?=[A-Z])")


def parse_for_vllm(options: ServeOptions, base_model: str) -> Namespace:
    """What `vllm serve` would make of these arguments. Wrong flags end the process with vLLM's own message."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    command = ServeSubcommand()
    parser = FlexibleArgumentParser(prog="mavis")
    serve_parser = command.subparser_init(parser.add_subparsers(dest="subparser"))
    serve_parser.set_defaults(**vllm_defaults(options))
    try:
        args: Namespace = parser.parse_args(vllm_argv(options, base_model))
        configure_logging_from_args(args)
        command.validate(args)
    except (ValueError, TypeError, OSError, AssertionError) as error:
        raise _refused_flags(error) from None
    return args


def require_plugin() -> None:
    """vLLM only logs a plugin that fails to load, and would serve unguided."""
    from vllm.plugins import load_endpoint_plugins

    if PLUGIN not in [plugin.name for plugin in load_endpoint_plugins(("generate",))]:
        raise StartupError("vLLM could not load our routes; is the package installed (pip install -e .)?")


@dataclass(frozen=True, slots=True)
class Joined:
    """What one of several HTTP processes gets from their parent.

    Attributes:
        address, listener: where all of them accept.
        client_config: how it meets the engines, as vLLM tells it.
        loads: how busy each of them is, and which it is.
    """

    address: str
    listener: socket.socket
    client_config: Mapping[str, Any]
    loads: tuple[MutableSequence[int], int]


def run_server(args: Namespace, stop: Stop, joined: Joined | None = None) -> int:
    """Serve until a signal or the engine's death. Returns the process's exit status.

    Args:
        joined: None: this is the only HTTP process, and starts the engines.

    Raises:
        StartupError: vLLM refuses a flag once it knows the model, or the address cannot be listened at.
    """

    def serve() -> int:
        uvloop.run(_serve(args, joined), loop_factory=lambda: StoppableLoop(stop))
        if stop.is_requested:
            return 0
        typer.echo("mavis: the engine died; the reason stands above", err=True)
        return FAILED

    return ended(serve)


def ended(serve: Callable[[], int]) -> int:
    """The exit status of what serves, however it ends.

    Raises:
        StartupError: see `run_server`.
    """
    try:
        return serve()
    except StartupError:
        raise
    except ValidationError as error:  # of vLLM's configuration: some flags it checks only against the model
        raise _refused_flags(error) from None
    except Exception as error:
        logger.debug("the server failed", exc_info=True)
        typer.echo(f"mavis: the server failed: {_first_complaint(error)}", err=True)
        return FAILED


def listen(args: Namespace) -> tuple[str, socket.socket]:
    """The address, as it is told, and a listener there.

    Raises:
        StartupError: naming the port, or vLLM's flag.
    """
    from vllm.entrypoints.launchers.launcher import setup_server

    args.model = args.model_tag
    try:
        address, listener = setup_server(args, reuse_port=False)
    except OSError as error:
        raise StartupError(port_sentence(args.host or "", args.port, error)) from None
    except KeyError as error:
        raise StartupError(f"vLLM refuses its flags: {error.args[0]}") from None
    return address, listener


def _refused_flags(error: Exception) -> StartupError:
    return StartupError(f"vLLM refuses its flags: {_first_complaint(error)}")


def _first_complaint(error: Exception) -> str:
    """One sentence of an error; pydantic's, which vLLM's configuration raises, tell a story."""
    if isinstance(error, ValidationError):
        error = ValueError(error.errors()[0]["msg"].removeprefix("Value error, "))
    return _SENTENCE_END.split(first_line(error))[0]


async def _serve(args: Namespace, joined: Joined | None) -> None:
    """vLLM's `run_server`, with a bounded stop, refusing what cannot be guided."""
    from vllm.entrypoints.launchers.api_server.entry import build_and_serve, build_async_engine_client

    options: ServerOptions = getattr(args, SERVER_OPTIONS)
    address, listener = listen(args) if joined is None else (joined.address, joined.listener)
    with listener:
        client_config = None if joined is None else dict(joined.client_config)
        async with build_async_engine_client(args, client_config=client_config) as engine:
            if "generate" not in await engine.get_supported_tasks():
                raise StartupError(f"{args.model} does not generate text, so there is nothing to guide")
            if joined is None and serves_on_cpu():
                keep_off_the_workers_cores()
            shutdown = await build_and_serve(
                engine,
                address,
                listener,
                args,
                None if joined is None else joined.loads,
                timeout_graceful_shutdown=OPEN_CONNECTIONS_S,
                http=bounded_http(options.settings.max_header_bytes),
            )
        await asyncio.wait_for(shutdown, OPEN_CONNECTIONS_S + 1)
