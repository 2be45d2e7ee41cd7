"""schemathesis against `/openapi.json` of a real server: at least 2,000 generated requests, and no check that fails.

    python -m tests.fuzz [--examples 150] [--seconds 300] [--out FILE.json]          (or: make fuzz)

Our own routes are held to every check there is, with links from a completion to its generation. vLLM's schemas promise
less than its routes hold to (unknown fields are ignored, numbers are taken from texts, and what one field allows
depends on others), so on the generating routes whatever the schema calls right or wrong may be refused or taken; all
other checks hold there, too.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Server, kill_server, processes_of, start_server, stop_server, wait_until_ready

SHORT = ("--max-model-len", "256", "--override-generation-config", '{"max_new_tokens": 4}')
"""No request runs for long: what is fuzzed is what is taken and refused."""
OWN = r"^/(v1/generations/.*|v1/objectives|ready)$"
GENERATING = (
    r"^/(v1/chat/completions|v1/completions|v1/chat/completions/batch|v1/responses|v1/messages|invocations"
    r"|v1/generations/.*)$"
)
SCHEMAS_VERDICT = ("positive_data_acceptance", "negative_data_rejection")
MIN_CASES = 2000


def fuzz(server: Server, paths: str, phases: str, options: argparse.Namespace, excluded: tuple[str, ...]) -> int:
    """One run of schemathesis; its exit status."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
    flags = ["--include-path-regex", paths, "--phases", phases, "--checks", "all"]
    flags += ["--max-examples", str(options.examples)]
    flags += ["--max-time", str(options.seconds), "--workers", "4", "--continue-on-failure", "--no-color"]
    flags += ["--request-timeout", "120", "--suppress-health-check", "all", "--seed", "1", "--warnings", "off"]
    if excluded:
        flags += ["--exclude-checks", ",".join(excluded)]
    return subprocess.run([*command, *flags], check=False).returncode


def answers_of(server: Server) -> Counter[str]:
    """How many answers of each status the server has given, by its own access log."""
    return Counter(re.findall(r'HTTP/1\.1" (\d{3})', server.log.read_text(encoding="utf-8", errors="replace")))


def main() -> int:
    """Returns 0 where no check failed, enough was sent, and the server is as it was."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--examples", type=int, default=150, help="generated requests an operation")
    parser.add_argument("--seconds", type=int, default=300, help="at most, of each of the two runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    server = start_server(folder / "server.log", *SHORT)
    print(f"fuzz: the server's log lies in {folder}", flush=True)
    runs: dict[str, Any] = {}
    try:
        wait_until_ready(server)
        for name, paths, phases, excluded in (
            ("own", OWN, "coverage,fuzzing,stateful", ()),
            ("generating", GENERATING, "fuzzing,stateful", SCHEMAS_VERDICT),
        ):
            before = answers_of(server)
            status = fuzz(server, paths, phases, options, excluded)
            answers = answers_of(server) - before
            runs[name] = {"status": status, "answers": dict(sorted(answers.items()))}
        is_alive = bool(processes_of(server)) and server.process.poll() is None
        stopped, _ = stop_server(server)
    finally:
        kill_server(server)
    cases = sum(sum(run["answers"].values()) for run in runs.values())
    failures = [status for run in runs.values() for status in run["answers"] if status.startswith("5")]
    has_passed = not failures and not any(run["status"] for run in runs.values())
    is_fine = is_alive and stopped == 0 and cases >= MIN_CASES and has_passed
    text = json.dumps({"cases": cases, "alive": is_alive, **runs}, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
