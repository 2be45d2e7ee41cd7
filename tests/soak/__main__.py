"""The soak: a real server, short of memory, under a mixture of everything clients do, for minutes or hours.

    python -m tests.soak [--minutes 20] [--clients 12] [--out FILE.json]          (or: make soak MINUTES=60)

Guided and plain, short and long, streamed and not, several choices, sliders that are moved all the time, clients that
go away, and one request in ten that is wrong. It fails where anything was answered with a 5xx or broke off, where
something is kept that nobody needs any more, where memory grows, where vLLM never had to preempt, or where a guided
greedy answer differs from the one that the same request gets alone.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import Server, kill_server, processes_of, start_server, stop_server, wait_until_ready
from tests.soak.compare import different
from tests.soak.load import COMPLETIONS, Load, Tally, greedy_request

SHORT_OF_MEMORY = ("--num-gpu-blocks-override", "14", "--max-model-len", "1024", "--max-num-seqs", "16")
"""Few blocks of 128 tokens: vLLM has to preempt."""
EXACT = ("--dtype", "float32")
"""In bfloat16 a logit moves by half a nat with the shape of its batch, and greedy answers say little."""
GREEDY_REQUESTS = 24
SETTINGS = {"MAVIS_VALUE_CACHE_GIB": "0.1", "MAVIS_VALUE_DTYPE": "float32", "MAVIS_STALL_S": "60"}
"""A value cache that is full within a minute, so that what grows afterwards grows for ever."""
KEPT = (
    "mavis_live_generations",
    "mavis_worker_traces",
    "mavis_worker_changed_generations",
    "mavis_waiting_sequences",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
)
MAX_GROWTH_MIB = 64.0


@dataclass(slots=True)
class Memory:
    """Resident memory of all the server's processes, in MiB, over time."""

    server: Server
    readings: list[float]

    def read(self) -> None:
        total = sum(process.memory_info().rss for process in processes_of(self.server))
        self.readings.append(total / 2**20)

    @property
    def growth(self) -> float:
        """Of the last third over the middle one: the first warms caches up."""
        third = max(1, len(self.readings) // 3)
        middle, last = self.readings[third : 2 * third] or self.readings, self.readings[-third:]
        return sum(last) / len(last) - sum(middle) / len(middle)


def metrics_of(text: str) -> dict[str, float]:
    """Prometheus text: name without labels -> the sum over its labels."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name.split("{")[0]] = found.get(name.split("{")[0], 0.0) + float(value)
    return found


async def alone(http: httpx.AsyncClient) -> dict[int, dict[str, Any]]:
    """The greedy requests' answers, one after another on an idle server."""
    answers = {}
    for number in range(GREEDY_REQUESTS):
        answer = await http.post(COMPLETIONS, json=greedy_request(number))
        answer.raise_for_status()
        answers[number] = answer.json()["choices"][0]
    return answers


async def soak(server: Server, minutes: float, clients: int) -> dict[str, Any]:
    """Run it; the figures, and what went wrong in `wrong`."""
    tally, memory, is_over = Tally(), Memory(server, []), asyncio.Event()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as http:
        expected = await alone(http)
        loads = [Load(http, tally, seed, GREEDY_REQUESTS) for seed in range(clients)]
        started = time.monotonic()
        tasks = [asyncio.create_task(load.run(is_over)) for load in loads]
        while time.monotonic() - started < minutes * 60:
            await asyncio.sleep(min(10, minutes * 3))
            memory.read()
            line = f"{(time.monotonic() - started) / 60:.1f} min, {sum(tally.outcomes.values())} requests"
            print(f"soak: {line}, {memory.readings[-1]:.0f} MiB, {len(tally.wrong)} wrong", flush=True)
        is_over.set()
        await asyncio.gather(*tasks)
        await asyncio.sleep(8)  # the last are aborted, and the counters read again
        kept = metrics_of((await http.get("/metrics")).text)
        again = await alone(http)
    wrong = [*tally.wrong, *_what_is_kept(kept), *_what_differs(expected, tally.greedy)]
    wrong += [f"afterwards, {entry}" for entry in _what_differs(expected, list(again.items()))]
    if not kept.get("vllm:num_preemptions_total"):
        wrong.append("vLLM never preempted: the test needs an engine short of memory")
    if memory.growth > MAX_GROWTH_MIB:
        wrong.append(f"memory grew by {memory.growth:.0f} MiB")
    return {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "outcomes": dict(tally.outcomes),
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "preemptions": kept.get("vllm:num_preemptions_total", 0.0),
        "greedy_answers_compared": len(tally.greedy),
        "memory_mib": [round(reading) for reading in memory.readings[:: max(1, len(memory.readings) // 20)]],
        "memory_growth_mib": round(memory.growth, 1),
        "value_fallback_rows": kept.get("mavis_value_fallback_rows_total", 0.0),
        "kept": {name: kept.get(name, 0.0) for name in KEPT},
        "wrong": wrong[:50],
    }


def _what_is_kept(found: dict[str, float]) -> list[str]:
    return [f"{name} is {found[name]:g} on an idle server" for name in KEPT if found.get(name)]


def _what_differs(expected: dict[int, dict[str, Any]], found: Sequence[tuple[int, dict[str, Any]]]) -> list[str]:
    reasons = ((number, different(expected[number], choice)) for number, choice in found)
    return [f"greedy {number}: {reason}" for number, reason in reasons if reason is not None]


def main() -> int:
    """Returns 0 where nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    log = Path(tempfile.mkdtemp(prefix="soak-")) / "server.log"
    server = start_server(log, *SHORT_OF_MEMORY, *EXACT, **SETTINGS)
    print(f"soak: the server logs to {log}", flush=True)
    try:
        wait_until_ready(server)
        report = asyncio.run(soak(server, options.minutes, options.clients))
        status, seconds = stop_server(server)
        if status != 0 or seconds > 30:
            report["wrong"].append(f"the server stopped with status {status} after {seconds:.0f} s")
    finally:
        kill_server(server)
    text = json.dumps(report, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
