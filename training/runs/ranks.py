"""Which of the processes of a stage this is: a fit may have several, which torch's launcher starts.

Standard library only.
"""

import os

LAUNCHER = "torch.distributed.run"


def world_size() -> int:
    """How many processes carry out this stage together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this one writes what the stage leaves, and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def threads() -> int:
    """How many of the machine's cores are this process's."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
