"""Putting a finished folder in another's place, in one step where the file system can. Standard library only; Linux."""

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # of Linux's renameat2(2)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Fill a new, empty folder that takes `folder`'s place only when the block ends well.

    Whenever the process is killed, `folder` is the old one or the new one, whole: where there is an old one, the two
    are exchanged in one step of the file system, and the old one is removed afterwards. A file system that cannot
    exchange (some network mounts) has no `folder` for a moment. What killed writers left behind is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        _put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.parent.glob(f".{folder.name}.partial-*"):
        process = leftover.name.rpartition("-")[2]
        if process.isdecimal() and not Path("/proc", process).exists():
            shutil.rmtree(leftover, ignore_errors=True)


def _put_in_place(partial: Path, folder: Path) -> None:
    """Afterwards `partial` is gone or holds the old content."""
    if not folder.exists():
        partial.rename(folder)
    elif not _exchanged(partial, folder):
        aside = folder.with_name(f".{folder.name}.old-{os.getpid()}")
        folder.rename(aside)
        try:
            partial.rename(folder)
        except OSError:
            aside.rename(folder)
            raise
        with contextlib.suppress(OSError):
            shutil.rmtree(aside)


def _exchanged(one: Path, other: Path) -> bool:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
