"""The errors that a command of ours answers with one sentence instead of a traceback."""

from typing import NoReturn

import typer
from rich.markup import escape

from training.progress import console
from training.prompts.files import PromptError
from training.recipe import RecipeError
from training.rewards import RewardError
from training.run_dir import RunDirError
from training.scale_search import CalibrationError
from valuemodels.contract.errors import CheckpointError, EmbeddedModelError, GuidanceError, HubError

EXPECTED_ERRORS = (
    CalibrationError,
    CheckpointError,
    EmbeddedModelError,
    GuidanceError,
    HubError,
    PromptError,
    RecipeError,
    RewardError,
    RunDirError,
)


def fail(error: Exception) -> NoReturn:
    """End the command with one sentence and exit status 2."""
    console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
    raise typer.Exit(2)
