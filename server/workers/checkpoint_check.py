"""How checkpoints are tried before the workers hear of them: in a process of their own. No torch, no vLLM."""

import asyncio
import os
import sys
from collections.abc import Mapping

from valuemodels.contract.guide_config import GuideConfig


def check_command(config: GuideConfig) -> list[str]:
    """What exits with 2 and one sentence on stderr where a checkpoint does not fit the base."""
    command = [sys.executable, "-m", "valuemodels.models.check", *config.checkpoints, "--base", config.base_model]
    command += [] if config.base_revision is None else ["--base-revision", config.base_revision]
    return command + [part for scoring in config.scorings or () for part in ("--scoring", scoring)]


def check_environment(current: Mapping[str, str] = os.environ) -> dict[str, str]:
    """One thread: the other cores have something else to do."""
    return {**current, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


def complaint_of(stderr: str, status: int) -> str:
    """The sentence in which a failed check says why."""
    lines = stderr.strip().splitlines() or [f"the check ended with status {status}"]
    return lines[-1]


async def complaint_about(config: GuideConfig) -> str | None:
    """Why checkpoints do not fit their base, in one sentence; None where they do."""
    process = await asyncio.create_subprocess_exec(
        *check_command(config),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=check_environment(),
    )
    _, stderr = await process.communicate()
    return complaint_of(stderr.decode(errors="replace"), process.returncode) if process.returncode else None
