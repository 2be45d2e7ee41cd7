"""Several HTTP processes before the same engines: `--api-server-count`.

This process becomes their parent: it listens, starts the engines and the HTTP processes, hands signals on, and ends all
when one of them dies. Each of them accepts from the one listener, and serves as the only one would; what they have to
ask each other goes over sockets (`server/generations/peers.py`).

vLLM is imported inside the functions, as in `vllm_server.py`.
"""

import os
import signal
import socket
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol

import typer

from server.audit import write_audit_to
from server.errors import StartupError
from server.start.cores import keep_off_the_workers_cores
from server.start.log_level import log_at
from server.start.server_options import SERVER_OPTIONS, HttpProcess, ServerOptions
from server.start.stopping import Stop, end_start_at_signals, end_with_parent, leave
from server.start.vllm_server import BAD_START, FAILED, Joined, ended, listen, run_server
from valuemodels.sources.cpu import serves_on_cpu

ENGINES_S = 5.0
"""How long the engines may take to end once the HTTP processes have."""


class Watched(Protocol):
    """What is asked of a process; `multiprocessing`'s have it."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def exitcode(self) -> int | None: ...
    @property
    def sentinel(self) -> int: ...


def run_servers(args: Namespace, stop: Stop) -> int:
    """Serve with `args.api_server_count` HTTP processes until a signal, or until something dies.

    Returns:
        the exit status.

    Raises:
        StartupError: as `run_server`.
    """
    return ended(lambda: _supervise(args, stop))


def _supervise(args: Namespace, stop: Stop) -> int:
    from vllm.v1.metrics.prometheus import setup_multiprocess_prometheus

    count, options = args.api_server_count, getattr(args, SERVER_OPTIONS)
    _refuse_unsupported(options, args.data_parallel_backend)
    setup_multiprocess_prometheus()
    address, listener = listen(args)
    with listener, tempfile.TemporaryDirectory(prefix="mavis-http-") as folder:
        sockets = tuple(Path(folder) / f"{index}.sock" for index in range(count))
        # What is to be drained is known to each of them alone.
        own = replace(options, on_drain=_nothing_to_drain, process=HttpProcess(0, count, sockets))
        setattr(args, SERVER_OPTIONS, own)
        with _launched(args, address, listener) as (servers, engines):
            if serves_on_cpu():
                keep_off_the_workers_cores()
            return _watched(servers, engines, stop)


@contextmanager
def _launched(
    args: Namespace, address: str, listener: socket.socket
) -> Iterator[tuple[Sequence[Watched], Sequence[Watched]]]:
    """The HTTP processes, and the engines once they are up; both end with it."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.utils import bind_engine_zmq_listeners, launch_core_engines
    from vllm.v1.executor import Executor
    from vllm.v1.utils import APIServerProcessManager

    engine_args = AsyncEngineArgs.from_cli_args(args)
    engine_args._api_process_count, engine_args._api_process_rank = args.api_server_count, -1
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    doors = bind_engine_zmq_listeners(config, args.api_server_count)
    log_stats = not engine_args.disable_log_stats
    with launch_core_engines(config, Executor.get_class(config), log_stats, doors.addresses) as launch:
        servers = APIServerProcessManager(
            listen_address=address,
            sock=listener,
            args=args,
            num_servers=args.api_server_count,
            input_listeners=doors.inputs,
            output_listeners=doors.outputs,
            target_server_fn=serve_one,
            stats_update_address=launch.coordinator.get_stats_publish_address() if launch.coordinator else None,
            tensor_queue=launch.tensor_queue,
        )
        launch.watched_frontend_processes = servers.processes
    try:
        yield servers.processes, getattr(launch.engine_manager, "processes", [])
    finally:
        for part in (servers, launch.engine_manager, launch.coordinator):
            if part is not None:
                part.shutdown(timeout=ENGINES_S)
        doors.cleanup()  # not before: it takes away the addresses, which the HTTP processes may not have met yet


def _refuse_unsupported(options: ServerOptions, engines_of: str) -> None:
    """Refuse what would reach one HTTP process and not the others, and engines whose death nobody would see.

    Args:
        engines_of: `--data-parallel-backend`.

    Raises:
        StartupError: naming the variable or the flag.
    """
    several = "--api-server-count above 1 is not supported with"
    if options.settings.admin_key is not None:
        raise StartupError(f"{several} MAVIS_ADMIN_KEY: other checkpoints would be offered by one HTTP process alone")
    if engines_of == "ray":
        raise StartupError(f"{several} --data-parallel-backend ray: nobody would see an engine die")
    if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "0").lower() in ("1", "true"):
        raise StartupError(f"{several} VLLM_ALLOW_RUNTIME_LORA_UPDATING: one HTTP process alone would know the adapter")


def serve_one(address: str, listener: Any, args: Namespace, client_config: dict[str, Any]) -> None:
    """One of the HTTP processes, from its first to its last line."""
    end_start_at_signals()
    end_with_parent()
    stop, index = Stop(), client_config["client_index"]
    options: ServerOptions = getattr(args, SERVER_OPTIONS)
    process = replace(options.process, index=index)
    setattr(args, SERVER_OPTIONS, replace(options, on_drain=stop.drain_first, process=process))
    log_at(options.settings.log_level)
    try:
        if options.settings.audit_log is not None:
            write_audit_to(options.settings.audit_log)
        loads = client_config.pop("api_server_loads")
        status = run_server(args, stop, Joined(address, listener, client_config, (loads, index)))
    except StartupError as error:
        if index == 0:  # they all say the same
            typer.echo(f"mavis: {error}", err=True)
        status = BAD_START
    leave(0 if stop.is_requested else status)


def _watched(servers: Sequence[Watched], engines: Sequence[Watched], stop: Stop) -> int:
    """Wait until all HTTP processes have ended after a signal, or anything has without one. Returns the exit status."""

    def hand_on(number: int, frame: object) -> None:
        stop.is_requested = True
        for server in servers:
            if server.pid is not None and server.exitcode is None:
                os.kill(server.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    while alive := [server for server in servers if server.exitcode is None]:
        connection.wait([each.sentinel for each in (*alive, *([] if stop.is_requested else engines))])
        if stop.is_requested:
            continue
        dead = [each for each in (*engines, *servers) if each.exitcode is not None]
        for each in dead:
            typer.echo(f"mavis: {each.name} has died; the reason stands above", err=True)
        if dead:  # one that a signal has killed has a status below 0
            return max(dead[0].exitcode or 0, FAILED)
    return 0


def _nothing_to_drain(*_: object) -> None:
    """In the parent's place: the HTTP processes put their own there."""
