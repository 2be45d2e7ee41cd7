"""How a command of ours ends where something foreseen goes wrong: one sentence, exit status 2, no traceback."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.markup import escape

from training.runs.progress import console
from valuemodels.contract.errors import MavisError


@contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """Around a command's body. Errors of ours and a full disk are foreseen; any other is a bug and shows its traceback.

    Raises:
        typer.Exit: with status 2, once the message is printed.
    """
    try:
        yield
    except MavisError as error:
        _end(str(error))
    except Exception as error:
        if not _is_of_a_full_disk(error):
            raise
        _end(f"the disk is full: {error}; what is finished is kept, so free some space and run the same command again")


def _end(message: str) -> None:
    console.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
    raise typer.Exit(2) from None


def _is_of_a_full_disk(error: Exception) -> bool:
    """Also of one that a library met in C++ or Rust and tells in its own words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in ("No space left on device", "os error 28", "Disk quota exceeded"))
