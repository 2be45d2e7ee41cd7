"""Starting and stopping as an operator does."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from server.cluster.child import free_port
from tests.e2e.conftest import kill_server, start_server, stop_server, wait_until_ready
from valuemodels.sources.embedded import EMBEDDED_VALUES

pytestmark = [pytest.mark.engine, pytest.mark.processes]


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    mavis = str(Path(sys.executable).with_name("mavis"))
    return subprocess.run([mavis, "serve", *arguments], capture_output=True, text=True, timeout=120)


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    return result.stderr.strip().splitlines()[-1]


def test_a_port_in_use_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = serve("--port", str(taken.getsockname()[1]))
    assert result.returncode == 2 and "port" in last_line(result) and "in use" in last_line(result)


def test_broken_checkpoints_refuse_to_start_with_one_sentence(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED_VALUES, tmp_path / "values"))
    tensors = folder / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    result = serve("--values", str(folder))
    assert result.returncode == 2 and "truncated" in last_line(result)
    missing = serve("--values", str(tmp_path / "nowhere"))
    assert missing.returncode == 2 and "nowhere" in last_line(missing)


def test_a_flag_that_vllm_refuses_once_it_knows_the_model_is_one_sentence() -> None:
    result = serve("--port", str(free_port()), "--max-model-len", "99999")
    assert result.returncode == 2
    said = [line for line in result.stderr.splitlines() if line.startswith("mavis: ")]
    assert len(said) == 1 and "max_model_len (99999)" in said[0] and "Traceback" not in result.stdout + result.stderr


@pytest.mark.slow
def test_what_a_worker_cannot_start_with_is_said_in_the_last_line() -> None:
    result = serve("--port", str(free_port()), "--value-cache-gib", "0.001")
    assert result.returncode == 2, result.stderr[-3000:]
    assert last_line(result).startswith("mavis: a value cache of 0.001 GiB does not hold one sequence of 4096 tokens")
    assert "--value-cache-gib" in last_line(result)


# A server each: test_drain.py stops one as well, and tests/server/start/test_stopping.py tries both signals.
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_busy_server_within_ten_seconds(tmp_path: Path, how: signal.Signals) -> None:
    """SIGTERM after the time that running requests have to end, SIGINT at once."""
    import httpx

    running = start_server(tmp_path / "log.txt", MAVIS_DRAIN_S="1" if how is signal.SIGTERM else "600")
    try:
        wait_until_ready(running)
        body = {"prompt": "Hello", "max_tokens": 3000, "ignore_eos": True, "objective_weights": {"positivity": 1}}
        with httpx.stream("POST", f"{running.url}/v1/completions", json={**body, "stream": True}, timeout=60) as answer:
            next(answer.iter_lines())
            status, seconds = stop_server(running, how)
        assert status == 0 and seconds < 10
    finally:
        kill_server(running)
