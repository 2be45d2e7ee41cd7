"""Curves of a stage that fits, as TensorBoard reads them: `tensorboard --logdir RUN_DIR/tensorboard`.

Runs in the processes of such stages; torch and tensorboard are imported when the first curve is drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from training.runs.run import Run, StageName

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


@contextmanager
def curves(run: Run, stage: StageName) -> Iterator["SummaryWriter"]:
    """A writer of one stage's curves, which belong to nobody's inputs; a stage that goes on adds to them.

    Yields:
        what has `add_scalar(tag, value, step)`.
    """
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(curves_folder(run, stage)))
    try:
        yield writer
    finally:
        writer.close()


def curves_folder(run: Run, stage: StageName) -> Path:
    """Where a stage's curves lie: TensorBoard shows each such folder as a line of its own."""
    return run.run_dir.path / FOLDER / f"{stage}_{run.iteration}"
