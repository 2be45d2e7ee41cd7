"""One engine in a process of its own, which times batches on request.

`BenchWorker` is the handle in the command's process; the engine lives in the process it starts. Only one worker is to
compute at a time: they share the machine.
"""

import multiprocessing
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from training.errors import WorkerDiedError
from training.prompts.chat import ChatPrompt
from training.recipe import EngineRecipe
from training.rollouts.engine import Limits, RolloutEngine
from training.rollouts.requests import Request, requests_to_sample
from valuemodels.contract.guidance import Guidance
from valuemodels.contract.guide_config import GuideConfig

PROMPT_TOKENS = 48
_LOWEST_TOKEN, _HIGHEST_TOKEN = 1000, 30000


@dataclass(frozen=True, slots=True)
class Job:
    """One batch to time.

    Attributes:
        rows: how many requests at once.
        seed: of the prompts and of the sampling; equal seeds give equal prompts.
        guidance: None samples from the base.
        own_weights: every row has its own: the guidance's times a factor between 0 and 1.
    """

    rows: int
    max_tokens: int
    seed: int
    guidance: Guidance | None = None
    own_weights: bool = False


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
    """Requests with random prompts, which follow from the job's seed."""
    rng = random.Random(job.seed)
    rows = [[rng.randrange(_LOWEST_TOKEN, _HIGHEST_TOKEN) for _ in range(PROMPT_TOKENS)] for _ in range(job.rows)]
    prompts = [ChatPrompt(str(number), "test", "", tuple(token_ids)) for number, token_ids in enumerate(rows)]
    return requests_to_sample(prompts, 1, job.seed, lambda prompt, _: _asked(job, prompt), label=f"bench-{job.seed}")


def _asked(job: Job, prompt: ChatPrompt) -> Guidance | None:
    if job.guidance is None or not job.own_weights:
        return job.guidance
    factor = (int(prompt.prompt_id) + 1) / job.rows
    return replace(job.guidance, weights={name: factor * weight for name, weight in job.guidance.weights.items()})
