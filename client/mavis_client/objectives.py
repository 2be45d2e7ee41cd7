"""The catalogue of `GET /v1/objectives`, as pydantic models. No I/O."""

from typing import Any

from pydantic import Field

from mavis_client.models import Answer


class Objective(Answer):
    """What can be asked for in `objective_weights`.

    Attributes:
        id: its name.
        default: the weight where a request does not give one.
        bounds: smallest and largest weight allowed.
        floor: strength (weight x beta) that nothing takes it below; None where the operator set none.
        scorings: what may stand in `scoring`.
        reward: id of the reward that its value model was trained on.
        metrics: held-out figures.
    """

    id: str
    description: str = ""
    default: float = 0.0
    bounds: tuple[float, float]
    floor: float | None = None
    scorings: list[str] = Field(default_factory=list)
    checkpoint: str | None = None
    reward: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


class ObjectiveList(Answer):
    """The answer of `GET /v1/objectives`.

    Attributes:
        profiles: name -> the fields that `profile` stands for.
    """

    data: list[Objective]
    profiles: dict[str, dict[str, Any]] = Field(default_factory=dict)
