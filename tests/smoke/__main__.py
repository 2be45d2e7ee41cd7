"""`make smoke`: the CPU image's steps in a clean root, and its server: guided, scraped, and drained without a loss.

Needs root, debootstrap, and Debian's archive and a package index in reach. Ends with status 1 where anything is wrong.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from server.cluster.child import free_port
from tests.smoke.image import Build, Stage

PROJECT = Path(__file__).parents[2]
START_TIMEOUT_S, DRAIN_S = 600, 300
STREAMS, TOKENS = 4, 64
_ALONE = "MAVIS_SMOKE_IS_ALONE"
_OWN_ROOT = """
mount --rbind {root} {root}
mount -o remount,bind,ro {root}
mount -t tmpfs tmpfs {root}/tmp
exec "$@"
"""
"""A read-only root file system, as the compose file and the manifests ask for."""


def main() -> None:
    if _ALONE not in os.environ:  # mounts of its own: whatever happens here, they go with it, and nobody else has them
        again = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.smoke", *sys.argv[1:]]
        os.execvpe(again[0], again, {**os.environ, _ALONE: "1"})
    arguments = argparse.ArgumentParser(prog="make smoke")
    arguments.add_argument("--keep", type=Path, help="Folder for the roots, kept afterwards; else a temporary one.")
    keep: Path | None = arguments.parse_args().keep
    proxied = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    with contextlib.ExitStack() as stack:
        scratch = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smoke-")))
        scratch.mkdir(parents=True, exist_ok=True)
        build = Build(PROJECT, scratch, proxied)
        stack.callback(build.close)
        stage = build.run(PROJECT / "deploy" / "Dockerfile.cpu")
        assert not list(stage.root.glob("usr/bin/*g++*")), "there is a compiler in the image"
        with served(stage) as (process, url):
            guided(url)
            scraped(url)
            drained(process, url)
    print("smoke: all is well")


@contextlib.contextmanager
def served(stage: Stage) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The image's server, once its own health check passes; in a root that nobody can write to."""
    port = free_port()
    stage.environment |= {"MAVIS_DRAIN_S": str(DRAIN_S)}
    command = stage.command([*stage.entrypoint, "--port", str(port)])
    own = ["unshare", "--mount", "sh", "-euc", _OWN_ROOT.format(root=stage.root), "sh", *command]
    started = time.monotonic()
    process = subprocess.Popen(own, start_new_session=True)
    try:
        check = stage.command([word.replace(":8000/", f":{port}/") for word in stage.health])
        while subprocess.run(check, capture_output=True).returncode:
            assert process.poll() is None, f"the server ended with status {process.returncode}"
            assert time.monotonic() - started < START_TIMEOUT_S, "the health check does not pass"
            time.sleep(1)
        print(f"smoke: healthy after {time.monotonic() - started:.0f} s")
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def body(prompt: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "objective_weights": {"positivity": 1.0}, "ignore_eos": True, "seed": 1, **more}


def guided(url: str) -> None:
    """Every scoring answers, and says what the weights did."""
    for scoring in ("fast", "exact", "hybrid"):
        asked = body("Write to a friend.", max_tokens=8, scoring=scoring)
        answer = httpx.post(f"{url}/v1/completions", json=asked, timeout=120).raise_for_status().json()
        mavis = answer["choices"][0]["mavis"]
        assert mavis["scoring"] == scoring and mavis["kl"] > 0, answer
        print(f"smoke: {scoring}: {mavis['kl']:.2f} nats")


def scraped(url: str) -> None:
    """What was guided is counted."""
    lines = httpx.get(f"{url}/metrics").raise_for_status().text.splitlines()
    counted = {line.split()[0]: float(line.split()[1]) for line in lines if line and line[0] != "#"}
    assert counted["mavis_guided_tokens_total"] == 24, counted.get("mavis_guided_tokens_total")
    print("smoke: 24 guided tokens are counted")


def drained(process: subprocess.Popen[bytes], url: str) -> None:
    """A stop while texts are written: each of them is written to its end, and the server then ends well."""
    flows, tokens = threading.Barrier(STREAMS + 1), [0] * STREAMS
    streams = [threading.Thread(target=_stream, args=(url, number, flows, tokens)) for number in range(STREAMS)]
    for each in streams:
        each.start()
    flows.wait(120)
    os.kill(process.pid, signal.SIGTERM)
    for each in streams:
        each.join(DRAIN_S)
    assert tokens == [TOKENS] * STREAMS, f"tokens were lost: {tokens} of {TOKENS} each"
    status = process.wait(DRAIN_S)
    assert status == 0, f"the server ended with status {status}"
    print(f"smoke: told to stop, it wrote {STREAMS} texts to their end, {TOKENS} tokens each, and ended with status 0")


def _stream(url: str, number: int, flows: threading.Barrier, tokens: list[int]) -> None:
    asked = body(f"Letter {number}: ", max_tokens=TOKENS, stream=True)
    with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=DRAIN_S) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                tokens[number] += 1
                assert "error" not in json.loads(line.removeprefix("data: ")), line
                if tokens[number] == 1:
                    flows.wait(120)


if __name__ == "__main__":
    main()
