"""What can go wrong in training, on top of `valuemodels.contract.errors`. Imports nothing else of ours.

    MavisError
    ├── RecipeError        a recipe cannot be used
    ├── PromptError        prompts cannot be used
    ├── PairError          preference pairs cannot be used
    ├── RewardError        a reward is unknown, cannot be loaded, or returned scores nothing can be learned from
    ├── RunDirError        a run's folder cannot be used as asked
    ├── CalibrationError   no scale costs what it should
    ├── MeasurementError   what was sampled does not answer what was asked
    └── WorkerDiedError    an engine's process ended

A command ends with such an error's message and exit status 2: see `training.runs.command`.
"""

from valuemodels.contract.errors import MavisError


class RecipeError(MavisError):
    """A recipe cannot be used; the message names file, key, what was given, and what is allowed."""


class PromptError(MavisError):
    """Prompts cannot be used; the message names the file, the line and the reason."""


class PairError(MavisError):
    """Preference pairs, or the base that is to learn from them, cannot be used; the message says what and why."""


class RewardError(MavisError):
    """A reward is unknown, cannot be loaded, or returned scores nothing can be learned from."""


class RunDirError(MavisError):
    """The run's folder cannot be used as asked; the message says what to do instead."""


class CalibrationError(MavisError):
    """No scale costs the target KL; the message says what was tried."""


class MeasurementError(MavisError):
    """What was sampled does not answer what was asked."""


class WorkerDiedError(MavisError):
    """An engine's process ended; what it printed says why."""
