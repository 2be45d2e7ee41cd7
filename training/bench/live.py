"""`mavis bench live`: what it costs to read and to change texts while they are written.

    mavis bench live [--values DIR] [--streams 16] [--rounds 8] [--out live.json]

One server of ours runs. All sides are guided alike, by fast scoring where there is any, and get the same loads in
turns, round by round, in another order each time, from a client on the cores that HTTP keeps to. Beside tokens a
second, the server's processor time a token is compared: it depends less on what else the machine does. Runs in the
command's process; must not import torch or vllm.
"""

import multiprocessing
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from statistics import fmean
from typing import Annotated

import typer
from rich.table import Table

from training.bench.beside import Changes, LiveSide, headers_of
from training.bench.load import Arrival, Timed, run_load
from training.bench.prompts import PromptsOption, drawn
from training.bench.servers import BenchServer, on_cores, our_command, serving, undisturbed
from training.bench.sides import WEIGHT
from training.evaluate.checkpoint import BaseFolderOption, OutOption, ValuesOption, find_checkpoint, write_report
from training.prompts.chat import ChatPrompt
from training.runs.command import errors_in_one_sentence
from training.runs.progress import Advance, console, progress
from training.statistics.bootstrap import Estimate, ratio_estimate

WARM_UP_TOKENS = 8
GUIDED = LiveSide("guided")
SIDES = (
    GUIDED,
    LiveSide("values of every token", {"return_values": True}),
    LiveSide("values of every candidate", {"return_values": "candidates"}),
    LiveSide("read twice a second", watched=True),
    LiveSide("changed 5 times a second", changes_per_s=5.0),
)


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """One side.

    Attributes:
        ratio: its tokens a second over those of `GUIDED`; cpu_ratio: its tokens a second of processor time over theirs.
    """

    side: str
    tokens_per_s: float
    ratio: Estimate
    cpu_ratio: Estimate


class Bench:
    """Puts loads on one server, side by side."""

    def __init__(
        self,
        server: BenchServer,
        fields: Mapping[str, object],
        names: Sequence[str],
        prompts: Sequence[ChatPrompt],
        advance: Advance,
    ) -> None:
        """Args: `fields`: of every request; `names`: of the objectives that are changed."""
        self._server = server
        self._fields = fields
        self._names = names
        self._prompts = prompts
        self._advance = advance
        self._labels = count(1)
        self.changes: dict[str, Changes] = defaultdict(Changes)

    def rounds(self, sides: Sequence[LiveSide], streams: int, max_tokens: int, rounds: int) -> dict[str, list[Timed]]:
        """The timings of every side."""
        found: dict[str, list[Timed]] = defaultdict(list)
        for number in range(rounds):
            for side in random.Random(number).sample(sides, len(sides)):
                found[side.name].append(self._time(side, streams, max_tokens, number))
                self._advance(1, f"{streams} streams: {side.name}")
        return found

    def _time(self, side: LiveSide, streams: int, max_tokens: int, seed: int) -> Timed:
        """Every side of a round gets the same prompts, and finds none of them in vLLM's prefix cache."""
        label = f"live-{next(self._labels)}"
        arrivals = [
            Arrival(
                0.0,
                {
                    "model": self._server.model,
                    "prompt": list(prompt.token_ids),
                    "seed": 1000 * seed + row,
                    "cache_salt": label,
                    **self._fields,
                    **side.fields,
                },
                headers=headers_of(label, row),
            )
            for row, prompt in enumerate(drawn(self._prompts, streams, seed))
        ]
        beside = side.beside(label, self._names, self.changes[f"{side.name}, {streams} streams"], max_tokens)
        # From where HTTP is served: what the client takes, on another machine, is not taken from the model here.
        with undisturbed(self._server, []), on_cores(self._server.http_cores()):
            before = self._server.cpu_s()
            load = run_load(self._server.url, arrivals, max_tokens, beside)
            return Timed(load, self._server.cpu_s() - before)


def bench_live(
    values: ValuesOption = None,
    out: OutOption = None,
    rounds: Annotated[int, typer.Option(min=2, help="Of every side.")] = 8,
    streams: Annotated[int, typer.Option(min=1, help="At once.")] = 16,
    many: Annotated[int, typer.Option(min=1, help="Streams at once where only changes are timed.")] = 32,
    max_tokens: Annotated[int, typer.Option(min=2, help="Of every stream.")] = 96,
    prompts: PromptsOption = None,
    base_folder: BaseFolderOption = None,
) -> None:
    """Time streams that are read and changed while they run, and the changes."""
    with errors_in_one_sentence():
        checkpoint = find_checkpoint(values, base_folder)
        texts = checkpoint.prompts(prompts, only=None)
        names, scorings = checkpoint.config.names, checkpoint.config.scorings
        fields = {
            "objective_weights": dict.fromkeys(names, WEIGHT),
            "scoring": "fast" if "fast" in scorings else scorings[0],
        }
        longest = max(len(text.token_ids) for text in texts) + max_tokens
        runs = len(SIDES) * (rounds + 1) + rounds
        with (
            serving(our_command(checkpoint.base, checkpoint.folder), max(streams, many), longest) as server,
            progress("bench", runs) as advance,
        ):
            bench = Bench(server, fields, names, texts, advance)
            bench.rounds(SIDES, streams, WARM_UP_TOKENS, 1)
            bench.changes.clear()
            timed = bench.rounds(SIDES, streams, max_tokens, rounds)
            bench.rounds([LiveSide("changed once a second", changes_per_s=1.0)], many, max_tokens, rounds)
        found = [_figures(side, timed) for side in SIDES]
        recorded = _recording_ms(streams, len(names))
        changes = {name: some.figures() for name, some in bench.changes.items() if some.latencies_s}
        _print(found, streams, recorded, changes)
        sizes = {"streams": streams, "max_tokens": max_tokens, "rounds": rounds}
        report = {"figures": [asdict(each) for each in found], "recording_ms": recorded, "changes": changes}
        write_report(out, {**sizes, **report})


def _figures(side: LiveSide, timed: Mapping[str, Sequence[Timed]]) -> LiveFigures:
    ours, reference = timed[side.name], timed[GUIDED.name]
    speeds, others = ([each.load.tokens_per_s for each in some] for some in (ours, reference))
    thrift, other_thrift = ([each.tokens_per_cpu_s for each in some] for some in (ours, reference))
    ratios = ratio_estimate(speeds, others), ratio_estimate(thrift, other_thrift)
    return LiveFigures(side.name, fmean(speeds), *ratios)


def _recording_ms(rows: int, objectives: int) -> float:
    """What noting a step for the totals takes in the worker, in ms; measured in a process of its own."""
    from training.bench.recording import recording_ms  # torch is imported when it is called

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(recording_ms, rows, objectives).result()


def _print(
    found: Sequence[LiveFigures], streams: int, recorded: float, changes: Mapping[str, Mapping[str, float]]
) -> None:
    table = Table("side", "tok/s", "ratio", "a second of processor time, ratio")
    for each in found:
        table.add_row(each.side, f"{each.tokens_per_s:.1f}", str(each.ratio), str(each.cpu_ratio))
    console.print(table)
    step_ms = 1000 * streams / found[0].tokens_per_s
    console.print(f"noting a step for totals: {recorded:.3f} ms of {step_ms:.1f} ms, {recorded / step_ms:.2%}")
    for name, figures in changes.items():
        console.print(
            f"{name}: {figures['changes']:.0f} changes, answered within {figures['p50_ms']:.0f} ms (median), "
            f"{figures['p95_ms']:.0f} ms (95%), {figures['max_ms']:.0f} ms (all); {figures['within_two']:.1%} hold at "
            "most 2 tokens after those that have arrived by then"
        )
