"""`mavis bench http`: what a client sees of a server, without weights and with, and of vLLM's own.

    mavis bench http [--values DIR] [--batch 1 --batch 8] [--out http.json]

Two servers run: plain vLLM's, and ours. All sides get the same loads in turns, round by round, in another order each
time; so a machine that slows down slows all of them. A load is a number of streams that begin at once, or
streams that come as a Poisson process, or a few that run when a long prompt comes. Runs in the command's process; must
not import torch or vllm.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, cycle, islice
from statistics import fmean
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from training.bench.load import Arrival, Load, Timed, at_once, poisson, run_load
from training.bench.prompts import PromptsOption, drawn
from training.bench.servers import BenchServer, our_command, plain_command, serving, undisturbed
from training.bench.sides import NO_WEIGHTS, PLAIN, Side, request_fields, sides_of
from training.evaluate.checkpoint import BaseFolderOption, OutOption, ValuesOption, find_checkpoint, write_report
from training.prompts.chat import ChatPrompt
from training.runs.command import errors_in_one_sentence
from training.runs.progress import Advance, console, progress
from training.statistics.bootstrap import Estimate, ratio_estimate

BATCHES = (1, 8, 32)
WARM_UP_TOKENS = 8
RATE_SHARE = 0.25
"""Of what the server did without weights, the Poisson load's tokens a second: even exact scoring keeps up with it."""
DISTURBED, LONG_PROMPT_AFTER_S, DISTURBED_TOKENS = 4, 0.5, 4
"""Streams that run when a long prompt comes, when it comes after they were sent, and how many times longer they are."""
Timings = Mapping[str, Sequence[Timed]]


@dataclass(frozen=True, slots=True)
class HttpFigures:
    """One side under one load. Latencies in ms, over the streams of all rounds.

    Attributes:
        ratio: tokens a second over the reference's, round by round; None for a load that says itself how fast it is.
        cpu_ratio: tokens a second of the server's processor time over the reference's.
        first: to a stream's first chunk; gap: between two chunks of a stream; medians, 99th percentiles, the longest.
    """

    load: str
    side: str
    reference: str
    tokens_per_s: float
    ratio: Estimate | None
    cpu_ratio: Estimate | None
    first_p50: float
    first_p99: float
    gap_p50: float
    gap_p99: float
    gap_max: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        requests: of a round of the Poisson load; rate: a second, None for `RATE_SHARE` of what the server can do.
        long_prompt: tokens of the prompt that disturbs other streams; 0 leaves that out.
    """

    batches: tuple[int, ...]
    rounds: int
    max_tokens: int
    requests: int
    rate: float | None
    long_prompt: int

    @property
    def runs(self) -> int:
        """How often every side is loaded."""
        return 1 + self.rounds * (len(self.batches) + (2 if self.long_prompt else 1))


class Bench:
    """Puts loads on two servers in turns."""

    def __init__(
        self, servers: Mapping[str, BenchServer], sides: Sequence[Side], prompts: Sequence[ChatPrompt], advance: Advance
    ) -> None:
        """Args: `servers`: plain vLLM's and ours, under the names of the sides without weights."""
        self._servers = servers
        self._sides = sides
        self._prompts = prompts
        self._advance = advance
        self._salts = count(1)

    def rounds(self, load: Load) -> dict[str, list[Timed]]:
        """The timings of every side."""
        found: dict[str, list[Timed]] = defaultdict(list)
        for number, times in enumerate(load.times):
            # Another order in every round, so that nobody always comes after the same side.
            for side in random.Random(number).sample(self._sides, len(self._sides)):
                server = self._servers[PLAIN if side.is_plain else NO_WEIGHTS]
                arrivals = self._arrivals(side, server.model, times, load.long_prompt, number)
                with undisturbed(server, [other for other in self._servers.values() if other is not server]):
                    before = server.cpu_s()
                    timing = run_load(server.url, arrivals, load.max_tokens)
                    found[side.name].append(Timed(timing, server.cpu_s() - before))
                self._advance(1, f"{load.name}: {side.name}")
        return found

    def _arrivals(self, side: Side, model: str, times: Sequence[float], long_prompt: int, seed: int) -> list[Arrival]:
        """Every side of a round gets the same prompts, and finds none of them in vLLM's prefix cache."""
        salt, rows = f"bench-{next(self._salts)}", len(times)
        prompts = [list(prompt.token_ids) for prompt in drawn(self._prompts, rows, seed)]
        due = [*times]
        if long_prompt:
            texts = cycle(
                token for prompt in drawn(self._prompts, len(self._prompts), seed) for token in prompt.token_ids
            )
            prompts.append(list(islice(texts, long_prompt)))
            due.append(max(times) + LONG_PROMPT_AFTER_S)
        return [
            Arrival(
                at_s,
                {
                    "model": model,
                    "prompt": prompt,
                    "seed": 1000 * seed + row,
                    "cache_salt": salt,
                    **request_fields(side.guidance_of(min(row, rows - 1), rows)),
                },
                is_watched=row < rows,
            )
            for row, (at_s, prompt) in enumerate(zip(due, prompts, strict=True))
        ]


def bench_http(
    values: ValuesOption = None,
    out: OutOption = None,
    rounds: Annotated[int, typer.Option(min=2, help="Of every load.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=2, help="Of every stream.")] = 32,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Streams at once; again for more. 1, 8, 32.")] = None,
    requests: Annotated[int, typer.Option(min=2, help="Of a round of the Poisson load.")] = 24,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Requests/s of it; a quarter of what is served.")
    ] = None,
    long_prompt: Annotated[int, typer.Option(min=0, help="Tokens of a prompt that disturbs; 0 leaves it out.")] = 3000,
    prompts: PromptsOption = None,
    base_folder: BaseFolderOption = None,
) -> None:
    """Time streams over HTTP: tokens a second, and a second of processor time; latencies, start-up, memory."""
    plan = Plan(tuple(batch or BATCHES), rounds, max_tokens, requests, rate, long_prompt)
    with errors_in_one_sentence():
        checkpoint = find_checkpoint(values, base_folder)
        texts = checkpoint.prompts(prompts, only=None)
        sides = sides_of(checkpoint.config.names, checkpoint.config.scorings)
        longest = max(long_prompt, *(len(text.token_ids) for text in texts))
        room = max(*plan.batches, requests, DISTURBED + 1), longest + DISTURBED_TOKENS * max_tokens
        plain, ours = plain_command(checkpoint.base), our_command(checkpoint.base, checkpoint.folder)
        with (
            serving(plain, *room) as vllm,
            serving(ours, *room) as mavis,
            progress("bench", plan.runs * len(sides)) as advance,
        ):
            found = _all_loads(Bench({PLAIN: vllm, NO_WEIGHTS: mavis}, sides, texts, advance), sides, plan)
            servers = {PLAIN: _server_figures(vllm), "mavis": _server_figures(mavis)}
        _print(found, servers)
        write_report(out, {**asdict(plan), "servers": servers, "figures": [asdict(each) for each in found]})


def _all_loads(bench: Bench, sides: Sequence[Side], plan: Plan) -> list[HttpFigures]:
    bench.rounds(Load("warm-up", [at_once(min(plan.batches))], WARM_UP_TOKENS))
    found: list[HttpFigures] = []
    for rows in plan.batches:
        load = Load(f"{rows} at once", [at_once(rows)] * plan.rounds, plan.max_tokens, is_timed=True)
        found += _figures(load, sides, bench.rounds(load))
    fastest = max(each.tokens_per_s for each in found if each.side == NO_WEIGHTS)
    per_s = RATE_SHARE * fastest / plan.max_tokens if plan.rate is None else plan.rate
    times = [poisson(plan.requests, per_s, seed) for seed in range(plan.rounds)]
    load = Load(f"Poisson, {per_s:.2g} requests/s", times, plan.max_tokens)
    found += _figures(load, sides, bench.rounds(load))
    if plan.long_prompt:
        name, tokens = f"{DISTURBED} and a {plan.long_prompt}-token prompt", DISTURBED_TOKENS * plan.max_tokens
        load = Load(name, [at_once(DISTURBED)] * plan.rounds, tokens, long_prompt=plan.long_prompt)
        found += _figures(load, sides, bench.rounds(load))
    return found


def _figures(load: Load, sides: Sequence[Side], timings: Timings) -> list[HttpFigures]:
    speeds = {name: [timed.load.tokens_per_s for timed in some] for name, some in timings.items()}
    thrift = {name: [timed.tokens_per_cpu_s for timed in some] for name, some in timings.items()}
    figures = []
    for side in sides:
        ratio, cpu_ratio = (
            ratio_estimate(kind[side.name], kind[side.reference]) if side.reference and is_compared else None
            for kind, is_compared in ((speeds, load.is_timed), (thrift, True))
        )
        some = [timed.load for timed in timings[side.name]]
        first = [seconds for timing in some for seconds in timing.first_s]
        gaps = [seconds for timing in some for seconds in timing.gaps_s]
        latencies = [1000 * float(np.quantile(kind, share)) for kind in (first, gaps) for share in (0.5, 0.99)]
        latencies.append(1000 * max(gaps))
        ratios = (fmean(speeds[side.name]), ratio, cpu_ratio)
        figures.append(HttpFigures(load.name, side.name, side.reference, *ratios, *latencies))
    return figures


def _server_figures(server: BenchServer) -> dict[str, float]:
    return {"start_s": server.start_s, "memory_gib": server.memory_gib()}


def _print(found: Sequence[HttpFigures], servers: Mapping[str, Mapping[str, float]]) -> None:
    for load in dict.fromkeys(each.load for each in found):
        table = Table("side", "tok/s", "ratio", "per CPU s", "first, ms", "p99", "gap, ms", "p99", "max", title=load)
        for each in found:
            if each.load == load:
                ratios = ("" if ratio is None else str(ratio) for ratio in (each.ratio, each.cpu_ratio))
                latencies = (each.first_p50, each.first_p99, each.gap_p50, each.gap_p99, each.gap_max)
                table.add_row(each.side, f"{each.tokens_per_s:.1f}", *ratios, *(f"{ms:.0f}" for ms in latencies))
        console.print(table)
    for name, figures in servers.items():
        console.print(f"{name}: up after {figures['start_s']:.0f} s, {figures['memory_gib']:.2f} GiB of memory")
