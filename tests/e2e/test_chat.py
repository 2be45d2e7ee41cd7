"""`mavis chat` in a terminal of its own, against the real server."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Server

pytestmark = pytest.mark.engine

RIGHT, DOWN, ESCAPE = b"\x1b[C", b"\x1b[B", b"\x1b"
MAVIS = str(Path(sys.executable).with_name("mavis"))


class Terminal:
    """A program in a pseudo-terminal: what it shows, and keys for it."""

    def __init__(self, *command: str) -> None:
        self.file, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40", "NO_COLOR": "1"}
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self.shown, self.at = "", 0

    def press(self, keys: bytes) -> None:
        os.write(self.file, keys)

    def wait_for(self, pattern: str, timeout_s: float = 60) -> str:
        """Read until something after the last match matches; returns what was shown up to there."""
        deadline = time.monotonic() + timeout_s
        while (found := re.search(pattern, self.shown[self.at :])) is None:
            assert time.monotonic() < deadline, f"{pattern!r} is not in {self.shown[-3000:]}"
            if select.select([self.file], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self.file, 65536).decode(errors="replace")
                except OSError:  # it has ended
                    assert re.search(pattern, self.shown[self.at :]), f"it ended after {self.shown[-3000:]}"
        start, self.at = self.at, self.at + found.end()
        return self.shown[start : self.at]

    def end(self) -> int:
        return self.process.wait(20)


@pytest.fixture
def chat(server: Server) -> Iterator[Terminal]:
    terminal = Terminal(MAVIS, "chat", "--url", server.url, "--seed", "3", "--max-tokens", "300")
    yield terminal
    terminal.process.kill()
    os.close(terminal.file)


def test_keys_move_sliders_while_it_writes(chat: Terminal) -> None:
    chat.wait_for("simplicity .*\\+0\\.00")
    chat.wait_for("> ")
    chat.press(b"Tell me about rain.\n")
    chat.wait_for("Esc stops")
    chat.press(RIGHT * 5)
    chat.wait_for(r"positivity +[─●]+ \+0\.50")
    chat.press(DOWN + RIGHT)
    chat.wait_for(r"simplicity +[─●]+ \+0\.10")
    chat.press(ESCAPE)
    said = chat.wait_for(r"positivity \+0\.50, simplicity \+0\.10")
    assert "⟨positivity +0.50" in " ".join(said.split())
    chat.press(b"/set humour 1\n")
    chat.wait_for(r"allowed is /set NAME WEIGHT .*NAME one of\s+positivity, simplicity")
    chat.press(b"/set positivity -1\n")
    chat.wait_for(r"positivity +[─●]+ -1\.00")
    chat.press(b"/quit\n")
    assert chat.end() == 0


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    answer = subprocess.run([MAVIS, "chat", "--url", "http://127.0.0.1:9"], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2
    assert answer.stderr.startswith("mavis chat: ") and "Traceback" not in answer.stderr
