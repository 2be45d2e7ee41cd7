"""Stages in processes that are killed at random moments.

Each is forked from a server that has imported everything, so it starts at once. Sampling waits a little for every
request, so that a kill may come in its middle.
"""

import json
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import peft  # noqa: F401 (loaded once, by the server that stages are forked from)
import transformers  # noqa: F401

from tests.training.fake_engines import RecordingEngine, RoundsEngine
from training.calibrate import stage as calibrate
from training.fast import invented, replies
from training.fast.run import FastRun
from training.judge import stage as judge
from training.opening import open_any_run
from training.rollouts import stage as rollouts
from training.rollouts.engine import Limits, Reply
from training.rollouts.requests import Request
from training.runs.run import StageName
from training.runs.run_dir import DONE_FILE, file_hash
from training.stages import run_stage

KILLS = 1
SECONDS_A_REQUEST = 1e-3
STARTING_S = 0.1
"""Until a forked process begins with its stage."""
_TIMES = ("seconds", "tokens_per_s")
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])


class SlowRoundsEngine(RoundsEngine):
    """For value models."""

    def sample(self, requests: Sequence[Request], limits: Limits) -> list[Reply]:
        time.sleep(SECONDS_A_REQUEST * len(requests))
        return super().sample(requests, limits)


class SlowRecordingEngine(RecordingEngine):
    """For a probe."""

    def sample(self, requests: Sequence[Request], limits: Limits) -> list[Reply]:
        time.sleep(SECONDS_A_REQUEST * len(requests))
        return super().sample(requests, limits)


def carry_out_stage(folder: Path, base: str, name: StageName, iteration: int) -> None:
    """In a process of its own, around a fake engine."""
    run = open_any_run(folder, Path(base))
    for module in (rollouts, calibrate, judge, invented, replies):
        module.RolloutEngine = SlowRecordingEngine if isinstance(run, FastRun) else SlowRoundsEngine  # type: ignore[attr-defined]
    run_stage(run.at(iteration), name)


def stage_process(*stage: object) -> BaseProcess:
    """A process that carries out a stage, started; arguments are those of `carry_out_stage`."""
    return _started(carry_out_stage, *stage)


def _started(target: Callable[..., object], *arguments: object) -> BaseProcess:
    process = _SERVER.Process(target=target, args=arguments)
    process.start()
    return process


def killed_and_gone_on_with(finished: Path, base: str, name: StageName, iteration: int, scratch: Path) -> None:
    """Do a stage of a finished run again, in a copy, with kills; it must end with the same files.

    Raises:
        AssertionError: it does not.
    """
    folder = scratch / "run"
    shutil.copytree(finished, folder)
    stage, expected = folder / f"iter_{iteration}" / name, contents(finished / f"iter_{iteration}" / name)
    seconds = STARTING_S + float(json.loads((stage / DONE_FILE).read_text(encoding="utf-8"))["seconds"])
    shutil.rmtree(stage)
    _join(_started(int))  # the server is there
    moments = [random.uniform(0, seconds) for _ in range(KILLS)]
    for moment in moments:
        process = stage_process(folder, base, name, iteration)
        process.join(moment)
        process.kill()
        process.join()
    if not (stage / DONE_FILE).is_file():
        _join(stage_process(folder, base, name, iteration))
    found = contents(stage)
    differing = [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)]
    assert not differing, f"{differing} differ: killed after {moments} of {seconds} s"


def contents(stage: Path) -> dict[str, Any]:
    """What a stage leaves to those after it: its files by their bytes, and its summary but for its time.

    A Trainer's own checkpoints hold times and are read by nobody once the stage is done; so do a sampler's timings.
    """
    found: dict[str, Any] = {
        path.relative_to(stage).as_posix(): file_hash(path)
        for path in stage.rglob("*")
        if path.is_file() and path.name != DONE_FILE and "trainer" not in path.parts and not path.match("timing_*.json")
    }
    summary = json.loads((stage / DONE_FILE).read_text(encoding="utf-8"))
    return {**found, DONE_FILE: {key: value for key, value in summary.items() if key not in _TIMES}}


def _join(process: BaseProcess) -> None:
    process.join(120)
    assert process.exitcode == 0, process.exitcode
