"""`mavis bench`: tokens a second, without weights and with, and against vLLM without us.

    mavis bench [--values DIR] [--batch 1 --batch 8] [--out engine.json]

Two engines run in processes of their own: plain vLLM, and vLLM with our processor. What is compared alternates in
pairs, so that a machine that slows down slows both sides. Runs in the command's process; must not import torch or vllm.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from statistics import fmean
from typing import Annotated

import typer
from rich.table import Table

from training.bench.by_tools import bench_tools
from training.bench.http import bench_http
from training.bench.live import bench_live
from training.bench.prompts import PromptsOption, drawn
from training.bench.report import bench_report
from training.bench.roofline import bench_roofline
from training.bench.sides import NO_WEIGHTS, PLAIN, Side, picked, sides_of
from training.bench.sizes import bench_sizes
from training.bench.step import bench_step
from training.bench.worker import BenchWorker, Job, Timing
from training.evaluate.checkpoint import BaseFolderOption, OutOption, ValuesOption, find_checkpoint, write_report
from training.prompts.chat import ChatPrompt
from training.recipe import EngineRecipe
from training.runs.command import errors_in_one_sentence
from training.runs.progress import Advance, console, progress
from training.statistics.bootstrap import Estimate, ratio_estimate

app = typer.Typer(invoke_without_command=True, help="Measure speed, without weights and with.")
app.command("http")(bench_http)
app.command("live")(bench_live)
app.command("tools")(bench_tools)
app.command("step")(bench_step)
app.command("roofline")(bench_roofline)
app.command("sizes")(bench_sizes)
app.command("report")(bench_report)

BATCHES = (1, 8, 32, 128)
WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Comparison:
    """One side against the other, in interleaved pairs.

    Attributes:
        tokens_per_s: mean of the side in question; `reference` of the other.
        ratio: side over reference.
        same_tokens: whether both sides sampled the same tokens in every pair; None where they need not.
    """

    what: str
    rows: int
    pairs: int
    tokens_per_s: float
    reference: float
    ratio: Estimate
    same_tokens: bool | None


@app.callback()
def bench_engine(
    context: typer.Context,
    values: ValuesOption = None,
    out: OutOption = None,
    pairs: Annotated[int, typer.Option(min=2, help="Pairs against plain vLLM, for each batch size.")] = 10,
    guided_pairs: Annotated[int, typer.Option(min=2, help="Pairs without weights and with.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of every row.")] = 32,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="A batch size; again for more. 1, 8, 32, 128.")] = None,
    side: Annotated[list[str] | None, typer.Option(help="Of the sides with weights only this; again for more.")] = None,
    prompts: PromptsOption = None,
    base_folder: BaseFolderOption = None,
) -> None:
    """Time batches of rows: with our processor idle, against vLLM without it, and with weights."""
    if context.invoked_subcommand is not None:
        return
    batches = tuple(batch or BATCHES)
    with errors_in_one_sentence():
        checkpoint = find_checkpoint(values, base_folder)
        texts = checkpoint.prompts(prompts, only=None)
        sides = picked(sides_of(checkpoint.config.names, checkpoint.config.scorings), side or ())
        # Not more rows than are timed: vLLM plans its memory and its batches by this.
        engine = EngineRecipe(max_num_seqs=max(batches))
        base = checkpoint.base
        work = sum(pairs + guided_pairs * len(_guided(sides, rows)) for rows in batches)
        with BenchWorker(base, engine, None) as plain, BenchWorker(base, engine, checkpoint.guide) as ours:
            plain.wait_until_ready()
            ours.wait_until_ready()
            with progress("bench", work) as advance:
                bench = Bench(plain, ours, texts, max_tokens, advance)
                comparisons = _compare_all(bench, sides, batches, pairs, guided_pairs)
        _print(comparisons)
        write_report(out, {"max_tokens": max_tokens, "comparisons": [asdict(each) for each in comparisons]})


class Bench:
    """Times two engines, or two sides on one of them, in turns."""

    def __init__(
        self, plain: BenchWorker, ours: BenchWorker, prompts: Sequence[ChatPrompt], max_tokens: int, advance: Advance
    ) -> None:
        self._plain = plain
        self._ours = ours
        self._prompts = prompts
        self._max_tokens = max_tokens
        self._advance = advance
        self._seeds = count(1)

    def warm_up(self, sides: Sequence[Side], rows: int) -> None:
        """One short job of every side, whose time nobody looks at."""
        for side in sides:
            (self._plain if side.is_plain else self._ours).time(self._job(side, rows, WARM_UP_TOKENS))

    def untouched(self, pairs: int, rows: int) -> Comparison:
        """Our engine without weights beside plain vLLM: both get the same prompts and seeds."""
        timings = []
        for pair in range(pairs):
            job = self._job(Side(NO_WEIGHTS, PLAIN), rows, self._max_tokens)
            timings.append(_in_turn((self._ours, job), (self._plain, job), pair))
            self._advance(1, f"batch {rows}: {NO_WEIGHTS} / {PLAIN}")
        return _comparison(f"{NO_WEIGHTS} / {PLAIN}", rows, timings, compare_tokens=True)

    def guided(self, side: Side, reference: Side, pairs: int, rows: int) -> Comparison:
        """Two sides on our engine, each with other prompts: one would find the other's in vLLM's prefix cache."""
        what, timings = f"{side.name} / {reference.name}", []
        for pair in range(pairs):
            job, other = (self._job(each, rows, self._max_tokens) for each in (side, reference))
            timings.append(_in_turn((self._ours, job), (self._ours, other), pair))
            self._advance(1, f"batch {rows}: {what}")
        return _comparison(what, rows, timings, compare_tokens=False)

    def _job(self, side: Side, rows: int, max_tokens: int) -> Job:
        seed = next(self._seeds)
        return Job(tuple(drawn(self._prompts, rows, seed)), max_tokens, seed, side)


def _compare_all(
    bench: Bench, sides: Sequence[Side], batches: Sequence[int], pairs: int, guided_pairs: int
) -> list[Comparison]:
    by_name = {side.name: side for side in sides}
    comparisons = []
    for rows in batches:
        bench.warm_up(sides, rows)
        comparisons.append(bench.untouched(pairs, rows))
        comparisons += [
            bench.guided(side, by_name[side.reference], guided_pairs, rows) for side in _guided(sides, rows)
        ]
    return comparisons


def _guided(sides: Sequence[Side], rows: int) -> list[Side]:
    """Those with weights; a row alone has its own anyway."""
    return [side for side in sides if side.guidance is not None and (rows > 1 or not side.own_weights)]


def _in_turn(side: tuple[BenchWorker, Job], reference: tuple[BenchWorker, Job], pair: int) -> tuple[Timing, Timing]:
    """Time a pair; who goes first changes from pair to pair."""
    if pair % 2:
        second = reference[0].time(reference[1])
        return side[0].time(side[1]), second
    return side[0].time(side[1]), reference[0].time(reference[1])


def _comparison(what: str, rows: int, timings: Sequence[tuple[Timing, Timing]], *, compare_tokens: bool) -> Comparison:
    side, reference = ([timing.tokens_per_s for timing in column] for column in zip(*timings, strict=True))
    same = all(ours.token_ids == theirs.token_ids for ours, theirs in timings) if compare_tokens else None
    return Comparison(what, rows, len(timings), fmean(side), fmean(reference), ratio_estimate(side, reference), same)


def _print(comparisons: Sequence[Comparison]) -> None:
    table = Table("compared", "batch", "pairs", "tok/s", "reference tok/s", "ratio", "same tokens")
    for each in comparisons:
        same = {True: "yes", False: "[red]no[/red]", None: ""}[each.same_tokens]
        figures = (
            str(each.rows),
            str(each.pairs),
            f"{each.tokens_per_s:.1f}",
            f"{each.reference:.1f}",
            str(each.ratio),
        )
        table.add_row(each.what, *figures, same)
    console.print(table)
