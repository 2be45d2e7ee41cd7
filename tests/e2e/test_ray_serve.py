"""Replicas on a local Ray, behind Ray Serve: the same API, generations found wherever they are, and a clean end."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from server.cluster.child import free_port
from tests.e2e.conftest import Server, kill_server, left_over, processes_of, wait_for
from tests.e2e.test_live_control import MINE, UP, running, turned_down

pytestmark = [pytest.mark.engine, pytest.mark.slow]

TOKENS = 64
REPLICAS = 2
CONFIG = """
http_options: {{host: 127.0.0.1, port: {port}}}
applications:
  - name: mavis
    import_path: server.cluster.ray_serve:build
    args: {{environment: {{VLLM_CPU_KVCACHE_SPACE: "1"}}, drain_s: 60}}
    deployments:
      - name: MavisReplica
        num_replicas: {replicas}
        graceful_shutdown_timeout_s: 75
        ray_actor_options: {{num_cpus: 1}}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`serve run` with two replicas; the last test stops it itself."""
    folder, port = tmp_path_factory.mktemp("ray"), free_port()
    config = folder / "serve.yaml"
    config.write_text(CONFIG.format(port=port, replicas=REPLICAS))
    log = folder / "log.txt"
    command = [str(Path(sys.executable).with_name("serve")), "run", str(config)]
    with log.open("wb") as output:
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.getcwd()}
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        assert wait_for(lambda: is_ready(server), 600), log.read_text()[-3000:]
        yield server
    finally:
        kill_server(server)


def is_ready(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()[-3000:]
    try:
        metrics = httpx.get(f"{server.url}/metrics", timeout=10).text
    except httpx.TransportError:
        return False
    return len(replicas_of(metrics, "mavis_live_generations")) == REPLICAS


def replicas_of(metrics: str, name: str) -> dict[str, float]:
    """A metric of every replica."""
    lines = [line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith(name)]
    return {key: float(value) for key, value in lines}


def servers_of(cluster: Server) -> list[psutil.Process]:
    """The `mavis serve` processes of the replicas; each is in a session of its own."""
    found = []
    for each in psutil.Process(cluster.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ends meanwhile, or waits to be buried
            if {"server.cli", "serve"} <= set(each.cmdline()):
                found.append(each)
    return found


def test_changes_and_reads_reach_the_replica_that_writes(cluster: Server) -> None:
    names = [f"replica-{number}" for number in range(6)]
    with ExitStack() as stack, httpx.Client(base_url=cluster.url, timeout=120) as http:
        asked = {"max_tokens": TOKENS, "objective_weights": UP, "stream": True}
        writing, effective = [], []
        for name in names:
            writing.append(stack.enter_context(running(cluster, name, **asked)))
            effective.append(turned_down(http, name))
        told = [http.get(f"/v1/generations/chatcmpl-{name}", headers=MINE) for name in names]
        stranger = http.get(f"/v1/generations/chatcmpl-{names[0]}", headers={"X-Generation-Token": "x" * 16})
        unknown = http.get("/v1/generations/chatcmpl-nobodys", headers=MINE)
        stack.close()
        for stream, at in zip(writing, effective, strict=True):
            assert stream.steering()[-1] == (at, -1.0) and len(stream.arrivals) == TOKENS
        assert [answer.status_code for answer in told] == [200] * len(names)
        assert (stranger.status_code, unknown.status_code) == (403, 404)
        metrics = http.get("/metrics").text
    written = replicas_of(metrics, "mavis_guided_tokens_total")
    assert len(written) == REPLICAS and all(written.values()) and sum(written.values()) == TOKENS * len(names)


def test_all_other_routes_are_the_servers_own(cluster: Server) -> None:
    with httpx.Client(base_url=cluster.url, timeout=120) as http:
        assert "<title>" in http.get("/").text
        assert http.get("/v1/objectives").json()["data"]
        wrong = http.post("/v1/chat/completions", json={"messages": [], "objective_weights": {"charm": 1}})
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "objective_weights.charm"


def test_a_replica_whose_server_dies_is_replaced(cluster: Server) -> None:
    before = {each.pid for each in servers_of(cluster)}
    below = psutil.Process(min(before)).children(recursive=True)
    assert below, "the test needs an engine and a worker"
    os.kill(min(before), signal.SIGKILL)
    assert psutil.wait_procs(below, timeout=60)[1] == [], "they would keep their memory"
    assert wait_for(lambda: len({each.pid for each in servers_of(cluster)} - before) == 1, 120)
    assert wait_for(lambda: is_ready(cluster), 300)


def test_a_replica_that_is_killed_takes_its_server_along(cluster: Server) -> None:
    before = servers_of(cluster)
    replica = next(each for each in before[0].parents() if "ServeReplica" in " ".join(each.cmdline()))
    below = replica.children(recursive=True)
    replica.kill()
    assert psutil.wait_procs(below, timeout=90)[1] == [], "they would keep their memory"
    assert wait_for(lambda: len(servers_of(cluster)) == REPLICAS and is_ready(cluster), 300)


def test_a_stop_leaves_nothing(cluster: Server) -> None:
    servers = servers_of(cluster)
    below = [child for each in servers for child in (each, *each.children(recursive=True))]
    cluster.process.send_signal(signal.SIGINT)
    cluster.process.wait(120)
    _, alive = psutil.wait_procs(below, timeout=30)
    assert alive == [] and left_over(cluster, 30) == [], processes_of(cluster)
