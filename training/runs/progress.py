"""Progress of long work: a bar on a terminal, a line now and then in a log file.

Runs in any training process. Must not import torch or vllm.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.runs.ranks import is_first

console = Console(highlight=False, quiet=not is_first())
_LOG_EVERY_S = 15.0


class Advance(Protocol):
    """Called with how much more is done and, if there is something to say, a short note."""

    def __call__(self, amount: int, note: str = "") -> None: ...


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show how far some work is.

    Args:
        total, done: in any one unit; `done` was finished by an earlier, interrupted run.
    """
    if console.is_terminal:
        with _bar() as bar:
            task = bar.add_task(description, total=total, completed=done, note="")
            yield lambda amount, note="": bar.update(task, advance=amount, note=note)
    else:
        yield _LogLines(description, total, done)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


class _LogLines:
    def __init__(self, description: str, total: int, done: int) -> None:
        self._description, self._total, self._done = description, total, done
        self._started = time.monotonic()
        self._last = float("-inf")

    def __call__(self, amount: int, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last >= _LOG_EVERY_S or self._done >= self._total:
            self._last = now
            elapsed_s = now - self._started
            console.print(f"{self._description}: {self._done}/{self._total}, {elapsed_s:.0f} s  {note}")
