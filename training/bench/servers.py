"""Servers to put load on: ours, and vLLM's own over the same model with the same flags.

Runs in the command's process. Must not import torch or vllm.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from training.errors import WorkerDiedError
from valuemodels.sources.cpu import base_dtype, serves_on_cpu

START_TIMEOUT_S = 600.0
_END_TIMEOUT_S = 30.0
_KV_CACHE_GIB = "2"
_QUIET_EVERY_S, _QUIET_SHARE, _QUIET_TIMEOUT_S = 0.25, 0.2, 20.0


@dataclass(frozen=True, slots=True)
class BenchServer:
    """A server that is up.

    Attributes:
        start_s: from its command to its first answer.
    """

    url: str
    model: str
    start_s: float
    process: subprocess.Popen[bytes]

    def memory_gib(self) -> float:
        """What its processes take together; what they share counts once."""
        return sum(process.memory_full_info().pss for process in self._processes()) / 2**30

    def suspend(self) -> None:
        """Stop all of its processes: even a server without requests looks for some."""
        for process in self._processes():
            process.suspend()

    def resume(self) -> None:
        """Let them go on."""
        for process in self._processes():
            process.resume()

    def cpu_s(self) -> float:
        """Processor time that its processes have taken so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes())

    def http_cores(self) -> set[int]:
        """The cores that its HTTP process keeps to."""
        return set(psutil.Process(self.process.pid).cpu_affinity())

    def _processes(self) -> list[psutil.Process]:
        whole = psutil.Process(self.process.pid)
        return [whole, *whole.children(recursive=True)]


@contextlib.contextmanager
def undisturbed(server: BenchServer, others: Sequence[BenchServer]) -> Iterator[None]:
    """While this holds the others are suspended; it begins when the server itself has fallen quiet."""
    for other in others:
        other.suspend()
    try:
        deadline = time.monotonic() + _QUIET_TIMEOUT_S
        busy_s = _QUIET_EVERY_S
        while busy_s > _QUIET_SHARE * _QUIET_EVERY_S and time.monotonic() < deadline:
            before = server.cpu_s()
            time.sleep(_QUIET_EVERY_S)
            busy_s = server.cpu_s() - before
        yield
    finally:
        for other in others:
            other.resume()


@contextlib.contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """While this holds, this process keeps to some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def our_command(base: str, values: Path) -> list[str]:
    """Serves the base with a value checkpoint."""
    return [sys.executable, "-m", "server.cli", "serve", base, "--values", str(values)]


def plain_command(base: str) -> list[str]:
    """vLLM's own server, none of our code in it."""
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", base]


@contextlib.contextmanager
def serving(command: Sequence[str], max_rows: int, max_tokens: int) -> Iterator[BenchServer]:
    """Start a server, wait until it answers, and end it and all of its processes afterwards.

    Args:
        max_rows: how many sequences run at once at most; max_tokens: of one sequence.

    Raises:
        WorkerDiedError: it ended or did not answer; with the end of what it printed.
    """
    port = _free_port()
    flags = ["--host", "127.0.0.1", "--port", str(port), "--dtype", base_dtype(), "--enforce-eager"]
    flags += ["--max-num-seqs", str(max_rows), "--max-model-len", str(max_tokens)]
    flags += ["--no-enable-chunked-prefill"] if serves_on_cpu() else []
    environment = {"VLLM_CPU_KVCACHE_SPACE": _KV_CACHE_GIB, "TORCH_COMPILE_DISABLE": "1", **os.environ}
    if "server.cli" not in command:
        environment["VLLM_PLUGINS"] = ""
    with tempfile.NamedTemporaryFile(prefix="bench-", suffix=".log") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, *flags], stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        url = f"http://127.0.0.1:{port}"
        try:
            model = _wait(process, url, Path(log.name))
            yield BenchServer(url, model, time.perf_counter() - started, process)
        finally:
            _end(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> str:
    """The name of the model, once the server tells it."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{url}/v1/models", timeout=5)
            if answer.status_code == httpx.codes.OK:
                return str(answer.json()["data"][0]["id"])
        time.sleep(0.2)
    how = "ended" if process.poll() is not None else f"did not answer within {START_TIMEOUT_S:g} s"
    raise WorkerDiedError(f"a server {how}; it printed last: {log.read_text(errors='replace')[-1500:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
