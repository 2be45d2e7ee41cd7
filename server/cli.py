"""`mavis`: the command line.

    mavis serve                                  the embedded model with the shipped sliders
    mavis serve MODEL --values DIR [vLLM flags]  your own

Other packages add commands through the entry-point group "mavis.commands". `serve` becomes the HTTP process; vLLM is
imported late, after all that can be refused without it.
"""

import asyncio
import logging
import os
import re
import sys
from argparse import Namespace
from importlib.metadata import entry_points
from typing import Annotated

import typer
import uvloop
from pydantic import ValidationError

from server.errors import StartupError
from server.launch import (
    PLUGIN,
    PLUGIN_GROUPS,
    ServeOptions,
    apply_guide,
    environment,
    parse_options,
    refuse_unsupported,
    vllm_argv,
    vllm_defaults,
)
from server.objectives import Catalogue
from server.preflight import (
    CheckpointCheck,
    check_port,
    early_flags,
    find_checkpoints,
    port_sentence,
    prepare_embedded,
)
from server.settings import read_settings
from server.stopping import Stop, StoppableLoop, adopt_orphans, end_children, end_start_at_signals, leave
from valuemodels.contract.engine_arguments import prepare_environment
from valuemodels.contract.guidance import Scoring

COMMANDS = "mavis.commands"
OPEN_CONNECTIONS_S = 3  # how long a stop waits for answers under way; vLLM has aborted them by then
BAD_START, FAILED = 2, 1
_SENTENCE_END = re.compile(r"(?<=\.)\s+(?=[A-Z])")

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="One base LLM, many alignments."
)
logger = logging.getLogger("mavis.cli")


@app.callback()
def commands() -> None:
    """One base LLM, many alignments."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    values: Annotated[
        list[str] | None,
        typer.Option("--values", metavar="DIR", help="Value checkpoint, a folder or hub id; may be repeated."),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Let vLLM compile the model: slower to start, faster to answer.")
    ] = False,
    value_cache_gib: Annotated[
        float | None, typer.Option("--value-cache-gib", help="Memory of the value models' KV cache, in GiB.")
    ] = None,
    scoring: Annotated[
        Scoring | None,
        typer.Option("--scoring", help="For requests that do not say; fast where the checkpoints offer it."),
    ] = None,
) -> None:
    """mavis serve [MODEL] [--values DIR] [--host HOST] [--port PORT] [any flag of `vllm serve`]

    MODEL is a folder or hub id and comes first; without it the embedded model is served.
    """
    end_start_at_signals()
    adopt_orphans()
    stop, status = Stop(), 0
    try:
        flags = {"value_cache_gib": value_cache_gib, "default_scoring": scoring}
        options = parse_options(context.args, values or (), compiles=compile, settings=flags)
        status = _serve(options, stop)
    except StartupError as error:
        typer.echo(f"mavis: {error}", err=True)
        status = BAD_START
    finally:
        end_children()
    raise typer.Exit(0 if stop.is_requested else status)


def _serve(options: ServeOptions, stop: Stop) -> int:
    """Check, tell vLLM, serve. Returns the exit status."""
    settings = read_settings(os.environ, **options.settings)
    _log_at(settings.log_level)
    folders, checkpoints = find_checkpoints(options.values)
    Catalogue(settings.guide_config(folders, ""), checkpoints)
    flags = early_flags(options.vllm_args, vllm_defaults(options)["host"])
    check_port(flags)

    base_model = prepare_embedded(settings.cache_dir) if options.model is None else options.model
    check = None if flags.config else CheckpointCheck(folders, base_model, flags.revision)
    _set_environment(options)
    args = _parse_for_vllm(options, base_model)
    refuse_unsupported(args, base_model)
    _require_plugin()
    (check or CheckpointCheck(folders, base_model, args.revision)).result()
    apply_guide(args, settings.guide_config(folders, base_model, args.revision))
    return _run(args, stop)


def _log_at(level: str) -> None:
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("mavis").setLevel(level.upper())


def _set_environment(options: ServeOptions) -> None:
    installed = [entry.name for group in PLUGIN_GROUPS for entry in entry_points(group=group)]
    os.environ.update(environment(options, os.environ, installed))
    prepare_environment()


def _parse_for_vllm(options: ServeOptions, base_model: str) -> Namespace:
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


def _require_plugin() -> None:
    """vLLM only logs a plugin that fails to load, and would serve unguided."""
    from vllm.plugins import load_endpoint_plugins

    if PLUGIN not in [plugin.name for plugin in load_endpoint_plugins(("generate",))]:
        raise StartupError("vLLM could not load our routes; is the package installed (pip install -e .)?")


def _run(args: Namespace, stop: Stop) -> int:
    try:
        uvloop.run(_listen(args), loop_factory=lambda: StoppableLoop(stop))
    except StartupError:
        raise
    except ValidationError as error:  # of vLLM's configuration: some flags it checks only against the model
        raise _refused_flags(error) from None
    except Exception as error:
        logger.debug("the server failed", exc_info=True)
        typer.echo(f"mavis: the server failed: {_first_complaint(error)}", err=True)
        return FAILED
    if not stop.is_requested:
        typer.echo("mavis: the engine died; the reason stands above", err=True)
        return FAILED
    return 0


def _refused_flags(error: Exception) -> StartupError:
    return StartupError(f"vLLM refuses its flags: {_first_complaint(error)}")


def _first_complaint(error: Exception) -> str:
    """One sentence of an error; pydantic's, which vLLM's configuration raises, tell a story."""
    text = error.errors()[0]["msg"].removeprefix("Value error, ") if isinstance(error, ValidationError) else str(error)
    first_line = next(iter(text.strip().splitlines()), type(error).__name__)
    return _SENTENCE_END.split(first_line)[0]


async def _listen(args: Namespace) -> None:
    """vLLM's `run_server`, with a bounded stop, refusing what cannot be guided."""
    from vllm.entrypoints.launchers.api_server.entry import build_and_serve, build_async_engine_client
    from vllm.entrypoints.launchers.launcher import setup_server

    args.model = args.model_tag
    try:
        address, listener = setup_server(args, reuse_port=False)
    except OSError as error:
        raise StartupError(port_sentence(args.host or "", args.port, error)) from None
    except KeyError as error:
        raise StartupError(f"vLLM refuses its flags: {error.args[0]}") from None
    with listener:
        async with build_async_engine_client(args) as engine:
            if "generate" not in await engine.get_supported_tasks():
                raise StartupError(f"{args.model} does not generate text, so there is nothing to guide")
            shutdown = await build_and_serve(
                engine, address, listener, args, timeout_graceful_shutdown=OPEN_CONNECTIONS_S
            )
        await asyncio.wait_for(shutdown, OPEN_CONNECTIONS_S + 1)


def main() -> None:
    """Entry point of the `mavis` script."""
    _mount_commands(sys.argv[1:])
    try:
        app()
    except SystemExit as end:
        if sys.argv[1:2] == ["serve"] and "vllm" in sys.modules:
            leave(end.code if isinstance(end.code, int) else 0)
        raise


def _mount_commands(arguments: list[str]) -> None:
    """Mount the commands of other packages. They may be heavy, so not for `serve`."""
    if arguments[:1] == ["serve"]:
        return
    for entry in entry_points(group=COMMANDS):
        try:
            app.add_typer(entry.load(), name=entry.name)
        except ImportError as error:
            if arguments[:1] == [entry.name]:
                typer.echo(f"mavis {entry.name} is not installed: {error}", err=True)


if __name__ == "__main__":
    main()
