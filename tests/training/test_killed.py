"""Every stage of value models, killed at random moments and started again, ends with the same files."""

from pathlib import Path

import pytest

from tests.training.killing import killed_and_gone_on_with
from training.runs.run import Run, StageName

STAGES: list[tuple[StageName, int]] = [
    *(("prompts", 0), ("rollouts", 0), ("rewards", 0), ("fit", 0), ("judge", 0)),
    *(("rollouts", 1), ("rewards", 1), ("fit", 1), ("calibrate", 1), ("judge", 1), ("export", 2)),
]
"""Name, and round: the first, which samples from the base, and a later one, which goes on from values."""


@pytest.mark.parametrize(("name", "iteration"), STAGES, ids=lambda value: str(value))
def test_stage_goes_on_where_it_was_killed(rounds: Run, tmp_path: Path, name: StageName, iteration: int) -> None:
    killed_and_gone_on_with(rounds.run_dir.path, rounds.base_folder, name, iteration, tmp_path)
