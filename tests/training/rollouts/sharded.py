"""Work whose shards are files: what tests of workers have done.

    python -m tests.training.rollouts.sharded FOLDER SHARDS WORKERS SECONDS

does it, a shard in so many seconds, for a test that kills it.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from training.errors import RewardError
from training.rollouts.workers import carry_out_shards
from training.runs.run_dir import replacing


@dataclass
class Files:
    """A file a shard, with the number of the process that wrote it.

    Attributes:
        seconds: that a shard takes.
        refuses, kills: a shard that raises, and one whose process ends at the first try.
    """

    folder: Path
    shards: int
    seconds: float = 0.0
    refuses: int | None = None
    kills: int | None = None
    description: str = "files"

    def sizes(self) -> list[int]:
        return [index + 1 for index in range(self.shards)]

    def path(self, index: int) -> Path:
        return self.folder / f"shard_{index}"

    def is_done(self, index: int) -> bool:
        return self.path(index).is_file()

    def prepare(self) -> None:
        with (self.folder / "prepared").open("a") as log:
            log.write(f"{os.getpid()}\n")

    def carry_out(self, index: int) -> int:
        if index == self.refuses:
            raise RewardError("the service is away")
        tried = self.folder / "tried"
        if index == self.kills and not tried.exists():
            tried.touch()
            os._exit(1)
        with (self.folder / "log").open("a") as log:
            log.write(f"{index}\n")
        time.sleep(self.seconds)
        with replacing(self.path(index)) as partial:
            partial.write_text(str(os.getpid()))
        return 10

    @property
    def done(self) -> set[int]:
        return {index for index in range(self.shards) if self.is_done(index)}

    @property
    def begun(self) -> list[int]:
        log = self.folder / "log"
        return [int(line) for line in log.read_text().splitlines()] if log.exists() else []


if __name__ == "__main__":
    folder, shards, workers, seconds = sys.argv[1:]
    carry_out_shards(Files(Path(folder), int(shards), float(seconds)), int(workers))
