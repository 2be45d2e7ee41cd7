"""`mavis bench`: tokens a second, without weights and with, and against vLLM without us.

    mavis bench [--values DIR] [--batch 1 --batch 8] [--out bench.json]

Two engines run in processes of their own: plain vLLM, and vLLM with our processor. What is compared alternates in
pairs, so that a machine that slows down slows both sides. Runs in the command's process; must not import torch or vllm.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from statistics import fmean
from typing import Annotated

import typer
from rich.table import Table

from training.bench.step import bench_step
from training.bench.worker import BenchWorker, Job, Timing
from training.evaluate.bootstrap import Estimate, ratio_estimate
from training.evaluate.checkpoint import BaseFolderOption, OutOption, ValuesOption, find_checkpoint, write_report
from training.recipe import EngineRecipe
from training.runs.command import errors_in_one_sentence
from training.runs.progress import Advance, console, progress
from valuemodels.contract.guidance import Guidance, Scoring

app = typer.Typer(invoke_without_command=True, help="Measure speed, without weights and with.")
app.command("step")(bench_step)

BATCHES = (1, 8, 32)
WARM_UP_TOKENS = 8
PRUNED = 0.01
"""`candidate_min_p` of the pruned side."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What is compared within one engine."""

    what: str
    side: Guidance
    reference: Guidance | None = None
    own_weights: bool = False


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
def bench(
    context: typer.Context,
    values: ValuesOption = None,
    out: OutOption = None,
    pairs: Annotated[int, typer.Option(min=2, help="Pairs against plain vLLM, for each batch size.")] = 10,
    guided_pairs: Annotated[int, typer.Option(min=2, help="Pairs without weights and with.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="A batch size; again for more. 1, 8, 32.")] = None,
    base_folder: BaseFolderOption = None,
) -> None:
    """Time batches of rows: with our processor idle, against vLLM without it, and with weights."""
    if context.invoked_subcommand is not None:
        return
    batches = tuple(batch or BATCHES)
    with errors_in_one_sentence():
        checkpoint = find_checkpoint(values, base_folder)
        guided = _sides(checkpoint.config.names, checkpoint.config.scorings)
        # Not more rows than are timed: vLLM plans its memory and its batches by this.
        engine = EngineRecipe(max_num_seqs=max(batches))
        base = checkpoint.base
        with BenchWorker(base, engine, None) as plain, BenchWorker(base, engine, checkpoint.guide) as ours:
            plain.wait_until_ready()
            ours.wait_until_ready()
            comparisons = _compare_all(plain, ours, batches, guided, pairs, guided_pairs, max_tokens)
        _print(comparisons)
        write_report(out, {"max_tokens": max_tokens, "comparisons": [asdict(each) for each in comparisons]})


def _sides(names: Sequence[str], scorings: Sequence[Scoring]) -> list[Sides]:
    weights = dict.fromkeys(names, 0.5)
    asked = {scoring: Guidance("bench", weights=weights, scoring=scoring) for scoring in scorings}
    found = [Sides(f"weights, {scoring} / no weights", guidance) for scoring, guidance in asked.items()]
    if (exact := asked.get("exact")) is not None:
        pruned = replace(exact, candidate_min_p=PRUNED)
        found.append(Sides(f"weights, exact, candidate_min_p {PRUNED} / no weights", pruned))
    shared = asked.get("fast") or next(iter(asked.values()))
    found.append(Sides(f"weights of every row's own / of all, {shared.scoring}", shared, shared, own_weights=True))
    return found


def _compare_all(
    plain: BenchWorker,
    ours: BenchWorker,
    batches: Sequence[int],
    guided: Sequence[Sides],
    pairs: int,
    guided_pairs: int,
    max_tokens: int,
) -> list[Comparison]:
    comparisons = []
    seeds = count(1)
    compared = {rows: [sides for sides in guided if rows > 1 or not sides.own_weights] for rows in batches}
    with progress("bench", sum(pairs + len(some) * guided_pairs for some in compared.values())) as advance:
        for rows, some in compared.items():
            for worker, asked in ((plain, None), (ours, None), *((ours, sides.side) for sides in some)):
                worker.time(Job(rows, WARM_UP_TOKENS, next(seeds), asked))
            untouched = []
            for pair in range(pairs):
                job = Job(rows, max_tokens, next(seeds))
                untouched.append(_in_turn((ours, job), (plain, job), pair))
                advance(1, f"batch {rows} against plain vLLM")
            comparisons.append(_comparison("no weights / plain vLLM", rows, untouched, compare_tokens=True))
            for sides in some:
                numbers = [next(seeds) for _ in range(guided_pairs)]
                timings = _guided_pairs(ours, rows, sides, numbers, max_tokens, advance)
                comparisons.append(_comparison(sides.what, rows, timings, compare_tokens=False))
    return comparisons


def _guided_pairs(
    ours: BenchWorker, rows: int, sides: Sides, seeds: Sequence[int], max_tokens: int, advance: Advance
) -> list[tuple[Timing, Timing]]:
    timings = []
    for pair, seed in enumerate(seeds):
        # Another prompt on each side, else the second would find the first's in vLLM's prefix cache.
        job = Job(rows, max_tokens, 2 * seed * 10**6, sides.side, sides.own_weights)
        reference = Job(rows, max_tokens, 2 * seed * 10**6 + 1, sides.reference)
        timings.append(_in_turn((ours, job), (ours, reference), pair))
        advance(1, f"batch {rows}: {sides.what}")
    return timings


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
