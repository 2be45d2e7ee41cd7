"""One engine in a process of its own, which times batches on request.

`BenchWorker` is the handle in the command's process; the engine lives in the process it starts. Only one worker is to
compute at a time: they share the machine.
"""

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from training.bench.sides import Side
from training.errors import WorkerDiedError
from training.prompts.chat import ChatPrompt
from training.recipe import EngineRecipe
from training.rollouts.engine import Limits, RolloutEngine
from training.rollouts.requests import Request, requests_to_sample
from valuemodels.contract.guide_config import GuideConfig


@dataclass(frozen=True, slots=True)
class Job:
    """One batch to time.

    Attributes:
        prompts: one a row, named by their number.
        seed: of the sampling.
    """

    prompts: tuple[ChatPrompt, ...]
    max_tokens: int
    seed: int
    side: Side


@dataclass(frozen=True, slots=True)
class Timing:
    """A batch's time, and what was sampled."""

    tokens_per_s: float
    token_ids: tuple[tuple[int, ...], ...]


class BenchWorker:
    """A process with one engine. Use it as a context manager."""

    def __init__(self, base: str, engine: EngineRecipe, guide: GuideConfig | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, base, engine, guide), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> "BenchWorker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join(timeout=20)
        if self._process.is_alive():
            self._process.kill()

    def wait_until_ready(self) -> None:
        """Block until the engine is up."""
        self._receive()

    def time(self, job: Job) -> Timing:
        """Carry out a job and block until it is done."""
        self._connection.send(job)
        timing: Timing = self._receive()
        return timing

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise WorkerDiedError("the engine's process ended; its messages above say why") from None


def _serve(connection: Connection, base: str, recipe: EngineRecipe, guide: GuideConfig | None) -> None:
    engine = RolloutEngine(base, recipe, guide)
    connection.send(None)
    while True:
        try:
            job: Job = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        connection.send(_time(engine, job))


def _time(engine: RolloutEngine, job: Job) -> Timing:
    requests = job_requests(job)
    limits = Limits(job.max_tokens, ignore_eos=True)
    started = time.perf_counter()
    replies = engine.sample(requests, limits)
    seconds = time.perf_counter() - started
    tokens = tuple(reply.token_ids for reply in replies)
    return Timing(sum(map(len, tokens)) / seconds, tokens)


def job_requests(job: Job) -> Sequence[Request]:
    """One request a prompt, whose seeds follow from the job's."""
    rows = len(job.prompts)
    return requests_to_sample(
        job.prompts,
        1,
        job.seed,
        lambda prompt, _: job.side.guidance_of(int(prompt.prompt_id), rows),
        label=f"bench-{job.seed}",
    )
