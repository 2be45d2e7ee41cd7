"""The root of all our exceptions, and those that more than one package raises or answers.

    MavisError
    ├── GuidanceError           a guidance field is wrong
    ├── CheckpointError         a value checkpoint cannot be used
    ├── HubError                a model or checkpoint cannot be had
    └── EmbeddedModelError      the embedded base model cannot be had

The HTTP process adds `server.errors`, training `training.errors`. Standard library only. None of these is a
`ValueError`: pydantic would swallow it into its own report.
"""


class MavisError(Exception):
    """Root of our exceptions; the message is one sentence for whoever gave the command or sent the request."""


class GuidanceError(MavisError):
    """A guidance field is wrong.

    Attributes:
        field: dotted name of the field, as the client wrote it (`objective_weights.positivity`).
        value: what was given.
        allowed: what would have been accepted, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{cut(field)}: got {shown(value)}, allowed is {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


class CheckpointError(MavisError):
    """A value checkpoint cannot be used; the message is one sentence for the operator."""


class HubError(MavisError):
    """A model or checkpoint cannot be had; the message is one sentence for the operator."""


class EmbeddedModelError(MavisError):
    """The embedded base model cannot be had; the message is one sentence for the operator."""


def first_line(error: Exception) -> str:
    """The first line of an error's message; its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shown(value: object) -> str:
    """A value as error messages quote it: never longer than 80 characters."""
    return cut(repr(value))


def cut(text: str) -> str:
    """A text that somebody else chose, at most 80 characters of it."""
    return text if len(text) <= 80 else text[:77] + "..."
