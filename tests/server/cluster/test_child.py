"""The server below a replica, as far as it goes without a model: an end is noticed, and nothing is left."""

import time

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
    ours = [each for each in psutil.Process().children(recursive=True) if "server.cli" in " ".join(each.cmdline())]
    assert ours == []
