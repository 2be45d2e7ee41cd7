"""What `GET /v1/objectives`, `/v1/profiles`, `/v1/evaluations` and `/v1/checkpoints` answer, as pydantic models.

Runs in the HTTP process. No torch.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.schema import Answer, Numbers
from server.requests.fields import ScheduleEntry
from valuemodels.contract.evaluation import Evaluation
from valuemodels.contract.guidance import Scoring


class Objective(Answer):
    """One slider."""

    id: Annotated[str, Field(description="What `objective_weights` calls it.")]
    object: Annotated[Literal["objective"], Field(description="Always this.")]
    description: Annotated[str, Field(description="What it means, from the checkpoint.")]
    default: Annotated[float, Field(description="Weight of requests that do not name it.")]
    bounds: Annotated[tuple[float, float], Field(description="Lowest and highest weight that is allowed.")]
    floor: Annotated[
        float | None,
        Field(description="Strength (weight x beta) that nothing takes it below, included in `bounds`; null for none."),
    ]
    scorings: Annotated[list[Scoring], Field(description="What `scoring` may ask for.")]
    checkpoint: Annotated[str, Field(description="Id of its value checkpoint.")]
    reward: Annotated[str, Field(description="Id of the reward its values were trained on.")]
    metrics: Annotated[Numbers, Field(description="Held-out figures of exact scoring, by name.")]
    fast_metrics: Annotated[
        Numbers | None, Field(description="The same of fast scoring; null where the checkpoint offers none.")
    ]


class ObjectiveList(Answer):
    """All sliders."""

    object: Annotated[Literal["list"], Field(description="Always this.")]
    data: Annotated[list[Objective], Field(description="In the order of the checkpoints.")]
    profiles: Annotated[
        dict[str, dict[str, Any]],
        Field(description="Name -> the fields that `profile` stands for; a request's own fields win."),
    ]


class ListedProfile(Answer):
    """A profile, and the fields that it stands for."""

    id: Annotated[str, Field(description="What `profile` names.")]
    object: Annotated[Literal["profile"], Field(description="Always this.")]
    title: Annotated[str | None, Field(description="For people.")] = None
    description: Annotated[str | None, Field(description="For people, one sentence.")] = None
    objective_weights: Annotated[Numbers, Field(description="As in a request; so the fields below, where they are.")]
    beta: Annotated[float | None, Field(description="Strength.")] = None
    candidates: Annotated[int | None, Field(description="How many tokens are scored at each step.")] = None
    candidate_min_p: Annotated[float | None, Field(description="Share of the likeliest token's probability.")] = None
    kl_budget: Annotated[float | None, Field(description="Nats a token.")] = None
    scoring: Annotated[Scoring | None, Field(description="How candidates are valued.")] = None
    schedule: Annotated[list[ScheduleEntry] | None, Field(description="What changes along the text.")] = None
    is_default: Annotated[bool, Field(description="Whether it holds for requests under this API key that name none.")]


class ProfileList(Answer):
    """All profiles."""

    object: Annotated[Literal["list"], Field(description="Always this.")]
    data: Annotated[list[ListedProfile], Field(description="In the operator's order.")]


class EvaluationList(Answer):
    """All that was measured; empty where nothing was, or of other checkpoints than those that are served."""

    object: Annotated[Literal["list"], Field(description="Always this.")]
    data: Annotated[list[Evaluation], Field(description="In the order of the checkpoints.")]


class ServedCheckpoint(Answer):
    """One value checkpoint that is served."""

    name: str = Field(description="What `checkpoints` calls it.")
    object: Literal["checkpoint"] = Field(description="Always this.")
    id: str = Field(description="As answers tell it in `mavis.checkpoint`.")
    objectives: list[str] = Field(description="What its sliders are called.")
    scorings: list[str] = Field(description="How it can value candidates.")


class CheckpointList(Answer):
    """What is served, and what might be."""

    object: Literal["list"] = Field(description="Always this.")
    data: list[ServedCheckpoint] = Field(description="What is served.")
    available: list[str] = Field(description="What `checkpoints` may name.")
