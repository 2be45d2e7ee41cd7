"""schemathesis against `/openapi.json` of a real server: at least 2,000 generated requests, and no check that fails.

    python -m tests.fuzz [--examples 120] [--out FILE.json]          (or: make fuzz)

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
GENERATING = r"^/(v1/chat/completions|v1/completions|v1/chat/completions/batch|v1/responses|v1/messages|invocations)$"
SCHEMAS_VERDICT = ("positive_data_acceptance", "negative_data_rejection")
MIN_CASES = 2000


def fuzz(server: Server, paths: str, examples: int, excluded: tuple[str, ...], report: Path) -> int:
    """One run of schemathesis; its exit status, with every case in `report`."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
    options = ["--include-path-regex", paths, "--checks", "all", "--max-examples", str(examples), "--workers", "4"]
    options += ["--report", "ndjson", "--report-ndjson-path", str(report), "--continue-on-failure", "--no-color"]
    options += ["--request-timeout", "120", "--suppress-health-check", "all", "--seed", "1", "--warnings", "off"]
    if excluded:
        options += ["--exclude-checks", ",".join(excluded)]
    return subprocess.run([*command, *options], check=False).returncode


def cases_of(report: Path) -> Counter[str]:
    """How many requests were sent, by method and path, and the statuses of their answers."""
    found: Counter[str] = Counter()
    for line in report.read_text(encoding="utf-8").splitlines():
        for status in re.findall(r'"status_code": ?(\d+)', line):
            found[status] += 1
    return found


def main() -> int:
    """Returns 0 where no check failed, enough was sent, and the server is as it was."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--examples", type=int, default=120, help="requests of each kind an operation")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    server = start_server(folder / "server.log", *SHORT)
    print(f"fuzz: reports and the server's log lie in {folder}", flush=True)
    runs: dict[str, Any] = {}
    try:
        wait_until_ready(server)
        for name, paths, excluded in (("own", OWN, ()), ("generating", GENERATING, SCHEMAS_VERDICT)):
            report = folder / f"{name}.ndjson"
            status = fuzz(server, paths, options.examples, excluded, report)
            runs[name] = {"status": status, "statuses": dict(sorted(cases_of(report).items()))}
        is_alive = bool(processes_of(server)) and server.process.poll() is None
        stopped, _ = stop_server(server)
    finally:
        kill_server(server)
    cases = sum(sum(run["statuses"].values()) for run in runs.values())
    is_fine = is_alive and stopped == 0 and cases >= MIN_CASES and not any(run["status"] for run in runs.values())
    text = json.dumps({"cases": cases, "alive": is_alive, **runs}, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
