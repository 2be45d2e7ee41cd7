"""llm-comply's OpenAI-chat and Anthropic suites: what passes against plain vLLM has to pass against this server.

    python -m tests.comply [--tries 3] [--out FILE.json]          (or: make comply)

Both serve the embedded model with the same flags of vLLM's, one after the other. Whether a model of this size calls the
right tool is chance in both, so a test counts as passed where it passes in one of a few tries.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from server.cluster.child import free_port
from server.start.vllm_arguments import ServeOptions, vllm_defaults
from tests.e2e.conftest import Server, kill_server, start_server, stop_server, wait_for, wait_until_ready
from valuemodels.sources.embedded import prepare_embedded_base

SUITES = ("openai-chat", "anthropic")
MODEL = "smollm2-135m-instruct"
SHORT = ("--override-generation-config", '{"max_new_tokens": 96}')
"""A model of this size talks until it is stopped."""


def passed(server: Server, suite: str, tries: int) -> dict[str, bool]:
    """Test -> whether it passed in one of the tries."""
    found: dict[str, bool] = {}
    for _ in range(tries):
        command = [
            str(Path(sys.executable).with_name("llm-comply")),
            "-u",
            f"{server.url}/v1",
            "-m",
            MODEL,
            "-k",
            "none",
        ]
        done = subprocess.run([*command, "--format", suite, "--json"], capture_output=True, text=True, check=False)
        for result in _results(done.stdout):
            found[result["id"]] = found.get(result["id"], False) or result["status"] == "passed"
        if all(found.values()):
            break
    return found


def _results(text: str) -> list[dict[str, Any]]:
    report = json.loads(text)
    results: list[dict[str, Any]] = report["results"]
    assert results, text[:500]
    return results


@contextmanager
def plain_vllm(log: Path) -> Iterator[Server]:
    """vLLM's own server over the same model with the same flags, none of our code in it."""
    defaults = vllm_defaults(ServeOptions(model=None))
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={_flag(value)}")
        for name, value in defaults.items()
        if value is not False
    ]
    flags += [f"--no-{name.replace('_', '-')}" for name, value in defaults.items() if value is False]
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(prepare_embedded_base())]
    environment = {**os.environ, "VLLM_PLUGINS": "", "VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port), *flags, *SHORT],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        assert wait_for(lambda: _is_up(server), timeout_s=240), log.read_text()[-3000:]
        yield server
    finally:
        kill_server(server)


def _flag(value: object) -> str:
    return str(value[0]) if isinstance(value, list) else str(value)


def _is_up(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def ours(log: Path) -> Iterator[Server]:
    server = start_server(log, *SHORT)
    try:
        wait_until_ready(server)
        yield server
        stop_server(server)
    finally:
        kill_server(server)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 where everything passes that passes against vLLM."""
    parser = argparse.ArgumentParser(prog="python -m tests.comply")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="comply-"))
    report: dict[str, Any] = {}
    for name, opened in (("vllm", plain_vllm), ("mavis", ours)):
        with opened(folder / f"{name}.log") as server:
            report[name] = {suite: passed(server, suite, options.tries) for suite in SUITES}
    lost = [
        f"{suite}: {test}"
        for suite in SUITES
        for test, is_passed in report["vllm"][suite].items()
        if is_passed and not report["mavis"][suite].get(test)
    ]
    for suite in SUITES:
        counts = [f"{name} {sum(report[name][suite].values())}/{len(report[name][suite])}" for name in report]
        print(f"comply: {suite}: {', '.join(counts)}")
    print(f"comply: lost against vLLM: {', '.join(lost) or 'nothing'}")
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
