"""How a command of ours ends where something foreseen goes wrong: one sentence, exit status 2, no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.markup import escape

from training.runs.progress import console
from valuemodels.contract.errors import MavisError


@contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """Around a command's body. Every error of ours is foreseen; any other is a bug and shows its traceback.

    Raises:
        typer.Exit: with status 2, once the message is printed.
    """
    try:
        yield
    except MavisError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None
