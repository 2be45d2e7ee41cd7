"""Every stage of a probe's making, killed at random moments and started again, ends with the same files."""

from pathlib import Path

import pytest

from tests.training.killing import killed_and_gone_on_with
from training.fast.run import FastRun
from training.runs.run import StageName

STAGES: list[tuple[StageName, int]] = [
    *(("prompts", 0), ("invented", 0), ("replies", 0), ("reply_rewards", 0), ("labels", 0), ("probe", 0)),
    *(("replies", 1), ("reply_rewards", 1), ("probe", 1), ("probe_scales", 1), ("probe_export", 1)),
]
"""Name, and round: of the base's replies, or of tilted ones."""


def test_a_look_ahead_goes_on_where_it_was_killed(looking: FastRun, tmp_path: Path) -> None:
    killed_and_gone_on_with(looking.run_dir.path, looking.base_folder, "lookahead", 1, tmp_path)


@pytest.mark.parametrize(("name", "iteration"), STAGES, ids=lambda value: str(value))
def test_stage_goes_on_where_it_was_killed(finished: FastRun, tmp_path: Path, name: StageName, iteration: int) -> None:
    killed_and_gone_on_with(finished.run_dir.path, finished.base_folder, name, iteration, tmp_path)
