"""Keys as they are pressed, where the input is a terminal. Standard library only."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_ESCAPES = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left",
    "\x1bOA": "up", "\x1bOB": "down", "\x1bOC": "right", "\x1bOD": "left", "\x1b": "escape",
}  # fmt: skip


def keys_in(data: str) -> list[str]:
    """The keys that a terminal's bytes stand for: names of arrows and "escape", else the character itself."""
    found: list[str] = []
    at = 0
    while at < len(data):
        code = next((code for code in (data[at : at + 3], data[at : at + 1]) if code in _ESCAPES), None)
        found.append(data[at] if code is None else _ESCAPES[code])
        at += 1 if code is None else len(code)
    return found


@contextmanager
def pressed_keys() -> Iterator[asyncio.Queue[str]]:
    """A queue of the keys that are pressed inside the block, without waiting for a line to end.

    Empty for good where the input is no terminal. Call it where an event loop runs.
    """
    queue: asyncio.Queue[str] = asyncio.Queue()
    if not sys.stdin.isatty():
        yield queue
        return
    import termios
    import tty

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    loop = asyncio.get_running_loop()

    def read() -> None:
        for key in keys_in(os.read(file, 1024).decode(errors="ignore")):
            queue.put_nowait(key)

    tty.setcbreak(file)
    loop.add_reader(file, read)
    try:
        yield queue
    finally:
        loop.remove_reader(file)
        termios.tcsetattr(file, termios.TCSADRAIN, before)
