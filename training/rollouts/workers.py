"""Work that comes in shards: one after another in this process, or several at once over a Ray cluster.

A shard is done once its file is there, which is written whole or not at all. So it does not matter who is killed, and
when: the same command does what is missing. Over a cluster the run's folder has to be one that all machines see.

Ray Data starts workers, hands each missing shard to one that is free, and replaces those that die. Imports ray only
where there are workers; must not import torch or vllm.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from training.errors import WorkerDiedError
from training.runs.progress import progress
from valuemodels.contract.errors import MavisError, first_line


class ShardedWork(Protocol):
    """Work that can be pickled until it is prepared, where it is carried out."""

    @property
    def description(self) -> str:
        """What people are told is being done."""

    def sizes(self) -> Sequence[int]:
        """How much each shard is: prompts, say."""

    def is_done(self, index: int) -> bool: ...

    def prepare(self) -> None:
        """Load what all shards need. Called once, before the first, and not counted in the pace of this process."""

    def carry_out(self, index: int) -> int:
        """Do a shard. Returns how many tokens that were."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What was done just now; nothing where all was done before."""

    tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float | None:
        return round(self.tokens / self.seconds, 1) if self.seconds else None


def carry_out_shards(work: ShardedWork, workers: int = 0) -> Pace:
    """Do all shards that are missing.

    Args:
        workers: how many at once, over a Ray cluster; 0: in this process.

    Raises:
        MavisError: what a shard raised.
        WorkerDiedError: a worker ended, or ray is not installed.
    """
    sizes = work.sizes()
    missing = [index for index in range(len(sizes)) if not work.is_done(index)]
    if not missing:
        return Pace()
    if not workers:
        work.prepare()
    pace, started = Pace(), time.monotonic()
    with progress(work.description, sum(sizes), sum(sizes) - sum(sizes[index] for index in missing)) as advance:
        for index, tokens in _over_cluster(work, missing, workers) if workers else _here(work, missing):
            pace = Pace(pace.tokens + tokens, time.monotonic() - started)
            advance(sizes[index], f"{pace.tokens / pace.seconds:.0f} tok/s")
    return pace


def _here(work: ShardedWork, missing: Sequence[int]) -> Iterator[tuple[int, int]]:
    for index in missing:
        yield index, work.carry_out(index)


class _Worker:
    """In a process that Ray has started."""

    def __init__(self, work: ShardedWork) -> None:
        work.prepare()
        self._work = work

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        index = int(row["index"])
        try:
            return {"index": index, "tokens": self._work.carry_out(index), "error": ""}
        except MavisError as error:  # foreseen: trying again would not help
            return {"index": index, "tokens": 0, "error": str(error)}


def _over_cluster(work: ShardedWork, missing: Sequence[int], workers: int) -> Iterator[tuple[int, int]]:
    try:
        import ray
        import ray.data
    except ImportError:
        raise WorkerDiedError("--workers needs Ray: pip install 'ray[data]'") from None
    # An address in RAY_ADDRESS is joined; without one, a Ray of this machine's own is started.
    ray.init(ignore_reinit_error=True, include_dashboard=False, logging_level="warning")
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.DataContext.get_current().print_on_execution_start = False
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    rows = ray.data.from_items([{"index": index} for index in missing], override_num_blocks=len(missing))
    pool = ray.data.ActorPoolStrategy(size=min(workers, len(missing)))
    done = rows.map(_Worker, fn_constructor_args=(work,), compute=pool, num_gpus=gpus, num_cpus=1)
    try:
        for row in done.iter_rows():
            if row["error"]:
                raise WorkerDiedError(row["error"])
            yield int(row["index"]), int(row["tokens"])
    except ray.exceptions.RayError as error:
        raise WorkerDiedError(f"{work.description}: a worker of the cluster failed: {first_line(error)}") from error
