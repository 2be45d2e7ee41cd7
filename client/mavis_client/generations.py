"""What `GET` and `PATCH /v1/generations/{id}` answer, as pydantic models. No I/O."""

from pydantic import Field

from mavis_client.models import Answer, Mavis


class EffectiveChoice(Answer):
    """From which token on a change holds for one choice."""

    index: int
    effective_from_token: int


class Effective(Answer):
    """The answer to a change; when it comes, the change holds.

    Attributes:
        effective_from_token: index of the first token that it holds for, the last of those of all `choices`.
        choices: the running choices that it was for.
    """

    id: str
    effective_from_token: int
    choices: list[EffectiveChoice] = Field(default_factory=list)


class GenerationChoice(Answer):
    """A choice of a generation.

    Attributes:
        mavis: its weights now, and totals and tokens so far; `steering` says what held before.
        next_token: where there is more to tell than one answer holds: the first token that is left out.
    """

    index: int
    finished: bool
    next_token: int | None = None
    mavis: Mavis


class GenerationState(Answer):
    """A generation that runs, or ended a few minutes ago.

    Attributes:
        status: "running" or "finished".
    """

    id: str
    status: str
    choices: list[GenerationChoice]
