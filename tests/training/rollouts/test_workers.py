"""Shards, here and over a local Ray: each is done once, whoever fails, and what is done stays done."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.rollouts.sharded import Files
from training.errors import RewardError, WorkerDiedError
from training.rollouts.workers import Pace, carry_out_shards


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two processors, for all tests of the module; gone with it."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


def test_here_every_missing_shard_is_done_in_this_process(tmp_path: Path) -> None:
    work = Files(tmp_path, 4)
    work.carry_out(2)
    pace = carry_out_shards(work)
    assert work.done == {0, 1, 2, 3} and work.begun == [2, 0, 1, 3] and pace.tokens == 30
    assert {work.path(index).read_text() for index in range(4)} == {str(os.getpid())}
    assert carry_out_shards(work) == Pace() and Pace().tokens_per_s is None
    assert (tmp_path / "prepared").read_text() == f"{os.getpid()}\n", "once, and not where nothing is missing"


def test_here_an_error_ends_it_and_keeps_what_was_done(tmp_path: Path) -> None:
    work = Files(tmp_path, 3, refuses=1)
    with pytest.raises(RewardError, match="the service is away"):
        carry_out_shards(work)
    assert work.done == {0}


@pytest.mark.usefixtures("cluster")
def test_over_a_cluster_every_missing_shard_is_done_once_and_elsewhere(tmp_path: Path) -> None:
    work = Files(tmp_path, 6, seconds=0.3)
    work.carry_out(5)
    assert carry_out_shards(work, workers=2).tokens == 50
    assert work.done == set(range(6)) and sorted(work.begun) == list(range(6))
    writers = {work.path(index).read_text() for index in range(5)}
    # Two, but for a machine so slow that one is through before the other has started.
    assert 1 <= len(writers) <= 2 and str(os.getpid()) not in writers
    assert writers <= set((tmp_path / "prepared").read_text().split())


@pytest.mark.usefixtures("cluster")
def test_over_a_cluster_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    work = Files(tmp_path, 3, kills=1)
    carry_out_shards(work, workers=2)
    assert work.done == {0, 1, 2}


@pytest.mark.usefixtures("cluster")
def test_over_a_cluster_an_error_of_ours_is_its_sentence(tmp_path: Path) -> None:
    work = Files(tmp_path, 3, refuses=1)
    with pytest.raises(WorkerDiedError, match=r"^the service is away$"):
        carry_out_shards(work, workers=1)
    work.refuses = None
    carry_out_shards(work, workers=1)
    assert work.done == {0, 1, 2}


def test_a_command_that_is_killed_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    """Workers may outlive the command by a moment, and end the shard they have."""
    work = Files(tmp_path, 8)
    command = [sys.executable, "-m", "tests.training.rollouts.sharded", str(tmp_path), "8", "2", "0.7"]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 300
    while len(work.done) < 3:
        assert process.poll() is None and time.monotonic() < deadline, work.begun
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)
    done = work.done
    assert 3 <= len(done) < 8
    before = {index: work.path(index).read_text() for index in done}
    carry_out_shards(work)
    assert work.done == set(range(8))
    assert {index: work.path(index).read_text() for index in done} == before, "what was done was done again"
