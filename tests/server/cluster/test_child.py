"""The server below a replica, as far as it goes without a model: an end is noticed, and nothing is left."""

import asyncio
import sys
import time
from pathlib import Path

import psutil
import pytest

from server.cluster.child import Child, ChildError


async def test_one_that_does_not_start_says_so_at_once() -> None:
    child = Child(["--values", "/nowhere/at/all"], {}, drain_s=1)
    began = time.monotonic()
    with pytest.raises(ChildError, match="has ended with status 2"):
        await child.wait_until_ready(120)
    assert time.monotonic() - began < 100
    with pytest.raises(ChildError, match="has ended"):
        await child.check()
    await child.stop()


async def test_one_that_takes_too_long_is_ended() -> None:
    child = Child([], {}, drain_s=600)
    with pytest.raises(ChildError, match="not ready after 1 s"):
        await child.wait_until_ready(1)
    ours = [each for each in psutil.Process().children(recursive=True) if "serve" in each.cmdline()]
    assert ours == []


async def test_what_a_killed_one_leaves_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch workers that outlive their server, and keep the memory that its successor needs."""
    killed = tmp_path / "python"
    killed.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/worker\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(ChildError, match="has ended with status -9"):
        await Child([], {}, drain_s=1).wait_until_ready(30)
    worker = int((tmp_path / "worker").read_text())
    deadline = time.monotonic() + 30
    while _runs(worker):  # a signal is not carried out at once on a busy machine
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
