"""`mavis bench step`: what one step of exact scoring costs, beside the time of its matrix products alone.

    mavis bench step [--values DIR] [--repeats 7] [--out step.json]

Rows, candidates, context and objectives are varied one at a time. Runs in the command's process; must not import torch.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from training.bench.shapes import StepShape, StepTiming
from training.evaluate.checkpoint import BaseFolderOption, OutOption, ValuesOption, find_checkpoint, write_report
from training.runs.command import errors_in_one_sentence
from training.runs.progress import console, progress
from valuemodels.contract.guide_config import GuideConfig

if TYPE_CHECKING:
    from training.bench.value_step import StepBench

VARIED = {
    "rows": (1, 8, 32, 128),
    "candidates": (8, 16, 40, 64),
    "context": (100, 1000, 4000),
    "objectives": (1, 2, 4, 8),
}
"""Each from the same shape, whose other numbers stay."""


def bench_step(
    values: ValuesOption = None,
    out: OutOption = None,
    repeats: Annotated[int, typer.Option(min=1, help="Steps timed for each shape.")] = 7,
    max_rows: Annotated[int, typer.Option(min=1, help="Leave out shapes of more rows.")] = 128,
    max_context: Annotated[int, typer.Option(min=100, help="Leave out shapes of more tokens a row.")] = 4000,
    base_folder: BaseFolderOption = None,
) -> None:
    """Time a step of exact scoring and its matrix products in turns, for many shapes."""
    with errors_in_one_sentence():
        checkpoint = find_checkpoint(values, base_folder)
        checkpoint.scoring("exact")
        guide = replace(checkpoint.guide, scorings=("exact",), default_scoring="exact")
        timings = _measure(guide, _shapes(max_rows, max_context), repeats)
        _print(timings)
        write_report(out, {"repeats": repeats, "steps": [asdict(t) | {"over_limit": t.over_limit} for t in timings]})


def _shapes(max_rows: int, max_context: int) -> list[StepShape]:
    usual = StepShape(rows=8, candidates=40, context=100, objectives=2)
    found = [replace(usual, **{name: number}) for name, numbers in VARIED.items() for number in numbers]
    return [s for s in dict.fromkeys(found) if s.rows <= max_rows and s.context <= max_context]


def _measure(guide: GuideConfig, shapes: Sequence[StepShape], repeats: int) -> list[StepTiming]:
    spawn = multiprocessing.get_context("spawn")
    with (
        progress("bench", len(shapes)) as advance,
        ProcessPoolExecutor(1, mp_context=spawn, initializer=_open, initargs=(guide,)) as pool,
    ):
        timings = []
        for shape in shapes:
            timings.append(pool.submit(_time, shape, repeats).result())
            advance(1, f"{shape.rows} rows, {shape.candidates} candidates, {shape.context} tokens")
    return timings


_bench: "StepBench | None" = None


def _open(guide: GuideConfig) -> None:
    """In the timing process: load the trunk."""
    from training.bench.value_step import StepBench

    global _bench  # the process's own
    _bench = StepBench(guide)


def _time(shape: StepShape, repeats: int) -> StepTiming:
    """In the timing process."""
    assert _bench is not None, "the pool's initializer runs first"
    return _bench.time(shape, repeats)


def _print(timings: Sequence[StepTiming]) -> None:
    table = Table("rows", "candidates", "context", "objectives", "step, ms", "products alone, ms", "ratio")
    for timing in timings:
        figures = (f"{timing.step:.1f}", f"{timing.matmuls:.1f}", f"{timing.over_limit:.2f}")
        table.add_row(*(str(number) for number in asdict(timing.shape).values()), *figures)
    console.print(table)
