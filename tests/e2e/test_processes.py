"""Several HTTP processes before one engine (`--api-server-count`): whoever holds a generation is found."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.conftest import (
    Server,
    kill_server,
    left_over,
    processes_of,
    start_server,
    stop_server,
    wait_for,
    wait_until_ready,
)
from tests.e2e.test_live_control import MINE, UP, running, turned_down

pytestmark = [pytest.mark.engine, pytest.mark.processes]

TOKENS = 64
LONGER = 192
"""Of texts that are changed: the process that is asked to may be cold, and they have to run still."""
FRESH = httpx.Limits(max_keepalive_connections=0)
"""A connection for every request: the processes take turns, since the least busy one accepts."""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two processes; the tests stop it themselves."""
    server = start_server(tmp_path_factory.mktemp("processes") / "log.txt", "--api-server-count", "2")
    try:
        wait_until_ready(server)
        yield server
    finally:
        kill_server(server)


def doors(server: Server) -> dict[str, int]:
    """The sockets at which HTTP processes ask each other -> whose they are."""
    connections = ((each.pid, one.laddr) for each in processes_of(server) for one in each.net_connections("unix"))
    return {str(at): pid for pid, at in connections if "mavis-http-" in str(at) and str(at).endswith(".sock")}


def test_every_process_changes_and_reads_what_any_of_them_writes(started: Server) -> None:
    wait_for_both(started)
    names = [f"anywhere-{number}" for number in range(4)]
    with ExitStack() as stack, httpx.Client(base_url=started.url, timeout=60, limits=FRESH) as http:
        asked = {"max_tokens": LONGER, "objective_weights": UP, "stream": True}
        writing, effective = [], []
        for name in names:  # each at once: a warm process may end its texts before a cold one begins
            writing.append(stack.enter_context(running(started, name, **asked)))
            effective.append(turned_down(http, name))
        told = [http.get(f"/v1/generations/chatcmpl-{name}", headers=MINE) for name in names for _ in range(4)]
        strangers = {"X-Generation-Token": "somebody-elses-token"}
        wrong = [http.get(f"/v1/generations/chatcmpl-{name}", headers=strangers) for name in names]
        stack.close()
        for stream, at in zip(writing, effective, strict=True):
            assert stream.steering()[-1] == (at, -1.0) and len(stream.arrivals) == LONGER
        assert {answer.status_code for answer in told} == {200}
        assert {answer.status_code for answer in wrong} == {403}
        ended = [http.get(f"/v1/generations/chatcmpl-{name}", headers=MINE).json() for name in names for _ in range(4)]
        assert {each["status"] for each in ended} == {"finished"}
        metrics = http.get("/metrics").text
    counts = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("mavis_"))
    assert float(counts["mavis_guided_tokens_total"]) == LONGER * len(names)
    assert float(counts['mavis_changes_total{outcome="taken"}']) == len(names)
    assert float(counts["mavis_live_generations"]) == 0


def wait_for_both(server: Server) -> None:
    deadline = time.monotonic() + 60
    while len(set(doors(server).values())) < 2:
        assert time.monotonic() < deadline, doors(server)
        time.sleep(0.2)


def test_nothing_else_runs_on_the_cores_that_compute_the_model(started: Server) -> None:
    wait_for_both(started)
    family = processes_of(started)
    taken = {core for process in family if "Worker" in process.name() for core in process.cpu_affinity()}
    others = {started.process.pid, engine_of(started).pid, *doors(started).values()}
    assert taken and len(others) >= 3
    if not os.sched_getaffinity(0) - taken:
        pytest.skip("the workers have all cores")
    assert wait_for(lambda: not taken & cores_of(others))


def cores_of(processes: set[int]) -> set[int]:
    """Where any thread of theirs may run."""
    found = set[int]()
    for thread in (each for pid in processes for each in psutil.Process(pid).threads()):
        with suppress(ProcessLookupError):  # it has ended
            found |= os.sched_getaffinity(thread.id)
    return found


def test_a_stop_drains_all_processes_and_leaves_nothing(started: Server) -> None:
    folder = Path(next(iter(doors(started)))).parent
    with ExitStack() as stack:
        asked = {"max_tokens": TOKENS, "objective_weights": UP, "stream": True}
        writing = [stack.enter_context(running(started, f"drained-{number}", **asked)) for number in range(4)]
        while not all(stream.arrivals for stream in writing):
            time.sleep(0.01)
        status, _ = stop_server(started, signal.SIGTERM, timeout_s=60)
    assert status == 0, started.log.read_text()[-3000:]
    assert [len(stream.arrivals) for stream in writing] == [TOKENS] * len(writing)
    assert left_over(started) == []
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["ApiServer", "EngineCore"])
def test_one_that_dies_ends_the_server(tmp_path: Path, victim: str) -> None:
    server = start_server(tmp_path / "log.txt", "--api-server-count", "2", "--data-parallel-size", "2")
    try:
        wait_until_ready(server)
        wait_for_both(server)
        pids = doors(server).values() if victim == "ApiServer" else [engine_of(server).pid]
        psutil.Process(next(iter(pids))).kill()
        assert server.process.wait(30) != 0
        assert "has died" in server.log.read_text()
        assert left_over(server) == []
    finally:
        kill_server(server)


@pytest.mark.slow
def test_http_processes_do_not_outlive_their_parent(tmp_path: Path) -> None:
    server = start_server(tmp_path / "log.txt", "--api-server-count", "2")
    try:
        wait_until_ready(server)
        wait_for_both(server)
        serving = [psutil.Process(pid) for pid in doors(server).values()]
        server.process.kill()
        _, alive = psutil.wait_procs(serving, timeout=30)
        assert alive == []
    finally:
        kill_server(server)


def engine_of(server: Server) -> psutil.Process:
    return next(each for each in processes_of(server) if "EngineCore" in " ".join(each.cmdline()))
