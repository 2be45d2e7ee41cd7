"""Everything that can be found wrong before the slow start of an engine, each as one sentence.

Runs in the process that becomes the HTTP server. What needs torch runs in a process of its own.
"""

import argparse
import errno
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.errors import StartupError
from server.start.vllm_arguments import VALUE_FLAGS
from server.workers.checkpoint_check import check_command, check_environment, complaint_of
from valuemodels.contract.errors import CheckpointError, HubError
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.value_config import ValueConfig, read_value_config
from valuemodels.sources.cpu import serves_on_cpu
from valuemodels.sources.embedded import EMBEDDED
from valuemodels.sources.values import resolve_values


@dataclass(frozen=True, slots=True)
class EarlyFlags:
    """The flags of vLLM that we look at before vLLM is imported. A `--config` file may say otherwise."""

    host: str
    port: int
    uds: str | None
    revision: str | None
    config: str | None


def early_flags(vllm_args: Sequence[str], default_host: str) -> EarlyFlags:
    """Read them.

    Raises:
        StartupError: one of them is wrong.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in VALUE_FLAGS:
        parser.add_argument(name, type=int if name == "--port" else str)
    parser.set_defaults(host=default_host, port=8000)
    try:
        known, _ = parser.parse_known_args(list(vllm_args))
    except argparse.ArgumentError as error:
        raise StartupError(str(error)) from None
    return EarlyFlags(**vars(known))


def check_port(flags: EarlyFlags) -> None:
    """Try to listen, and let go again. Left to vLLM's own bind where a `--config` file may name another address.

    Raises:
        StartupError: somebody else listens there, or we may not.
    """
    if flags.uds or flags.config:
        return
    host, port = flags.host, flags.port
    if not 1 <= port <= 65535:  # getaddrinfo would take the remainder
        raise StartupError(f"--port: got {port}, allowed is 1 to 65535")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise StartupError(port_sentence(host, port, error)) from None


def check_compiler(current: Mapping[str, str]) -> None:
    """Look for what torch compiles with on a CPU; an engine would die of its absence, after minutes.

    Raises:
        StartupError: it is not there.
    """
    compiler = current.get("CXX") or "g++"
    if serves_on_cpu() and shutil.which(compiler, path=current.get("PATH")) is None:
        raise StartupError(
            f"--compile: torch compiles with {compiler}, which is not there; install it, name another in CXX, or leave "
            "the flag out"
        )


def port_sentence(host: str, port: int, error: OSError) -> str:
    """Why we cannot listen there."""
    where = f"port {port} on {host or 'all interfaces'}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is already in use; choose another with --port"
    return f"cannot listen at {where}: {error.strerror or error}"


def find_checkpoints(names: Sequence[str]) -> tuple[list[Path], list[ValueConfig]]:
    """Folders of the value checkpoints, and what they say about themselves.

    Args:
        names: folders or hub ids; none is the shipped checkpoint.

    Raises:
        StartupError: one is missing, or its `value_config.json` is wrong.
    """
    try:
        folders = [resolve_values(name) for name in names or [EMBEDDED]]
        return [folder.absolute() for folder in folders], [read_value_config(folder) for folder in folders]
    except (HubError, CheckpointError) as error:
        raise StartupError(f"--values: {error}") from None


def prepare_embedded(cache_dir: Path | None) -> str:
    """The embedded base model's folder, converted now if it was not before; what happens is shown on stderr.

    Raises:
        StartupError: it failed; the reason stands on stderr.
    """
    command = [sys.executable, "-m", "valuemodels.sources.embedded"]
    if cache_dir is not None:
        command += ["--cache-dir", str(cache_dir)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0 or not done.stdout.strip():
        raise StartupError("the embedded base model could not be prepared; the reason stands above")
    return done.stdout.strip().splitlines()[-1]


class CheckpointCheck:
    """Loads the checkpoints once in a process of its own, while this one imports vLLM.

    The engine would find the same faults, a minute later and inside a traceback.
    """

    def __init__(self, config: GuideConfig) -> None:
        self._process = subprocess.Popen(
            check_command(config),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=check_environment(),
        )

    def result(self) -> None:
        """Wait for it.

        Raises:
            StartupError: a checkpoint does not fit this base model, or cannot be read.
        """
        _, complaint = self._process.communicate()
        if self._process.returncode != 0:
            raise StartupError(complaint_of(complaint, self._process.returncode))
