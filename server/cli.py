"""`mavis`: the command line.

    mavis serve                                  the embedded model with the shipped sliders
    mavis serve MODEL --values DIR [vLLM flags]  your own

Other packages add commands through the entry-point group "mavis.commands". `serve` becomes the HTTP process; vLLM is
imported late, after all that can be refused without it.
"""

import logging
import os
import sys
from argparse import Namespace
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from server.audit import write_audit_to
from server.errors import StartupError
from server.requests.catalogue import Catalogue
from server.requests.keys import keys_of
from server.start.log_level import log_at
from server.start.preflight import (
    CheckpointCheck,
    check_compiler,
    check_port,
    early_flags,
    find_checkpoints,
    prepare_embedded,
)
from server.start.server_options import SERVER_OPTIONS, ServerOptions
from server.start.settings import as_startup_error, read_settings
from server.start.several import run_servers
from server.start.stopping import Stop, adopt_orphans, end_children, end_start_at_signals, leave
from server.start.vllm_arguments import (
    PLUGIN_GROUPS,
    ServeOptions,
    apply_guide,
    environment,
    parse_options,
    refuse_unsupported,
    take_api_keys,
    vllm_defaults,
)
from server.start.vllm_server import BAD_START, parse_for_vllm, require_plugin, run_server
from valuemodels.contract.errors import MavisError
from valuemodels.contract.guidance import Scoring
from valuemodels.contract.server_process import complaint_in, known_below
from valuemodels.sources.cpu import prepare_environment

COMMANDS = "mavis.commands"

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
    log_at(settings.log_level)
    if settings.audit_log is not None:
        write_audit_to(settings.audit_log)
    own_keys = keys_of((), settings.keys_file)
    folders, checkpoints = find_checkpoints(options.values)
    config = settings.guide_config(folders, "", keys=own_keys.rules)
    try:
        Catalogue(config, checkpoints, settings.all_profiles(config.checkpoints), own_keys.profiles)
    except MavisError as error:
        raise as_startup_error(error) from None
    flags = early_flags(options.vllm_args, vllm_defaults(options)["host"])
    check_port(flags)
    if options.compiles:
        check_compiler(os.environ)

    base_model = prepare_embedded(settings.cache_dir) if options.model is None else options.model
    config = replace(config, base_model=base_model)
    check = None if flags.config else CheckpointCheck(replace(config, base_revision=flags.revision))
    _set_environment(options)
    args = parse_for_vllm(options, base_model)
    refuse_unsupported(args, base_model)
    require_plugin()
    config = replace(config, base_revision=args.revision)
    (check or CheckpointCheck(config)).result()
    apply_guide(args, config)
    keys = keys_of(take_api_keys(args, os.environ), settings.keys_file)
    setattr(args, SERVER_OPTIONS, ServerOptions(settings, keys, stop.drain_first))
    return _run(args, stop)


def _run(args: Namespace, stop: Stop) -> int:
    """Serve. Returns the exit status.

    Raises:
        StartupError: what a worker says that could not start, beside what `run_server` raises.
    """
    with TemporaryDirectory(prefix="mavis-start-") as folder:
        file = Path(folder) / "complaint"
        known_below(file)
        status = run_server(args, stop) if args.api_server_count in (None, 1) else run_servers(args, stop)
        if complaint := complaint_in(file):
            raise StartupError(complaint)
    return status


def _set_environment(options: ServeOptions) -> None:
    installed = [entry.name for group in PLUGIN_GROUPS for entry in entry_points(group=group)]
    os.environ.update(environment(options, os.environ, installed))
    prepare_environment()


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
