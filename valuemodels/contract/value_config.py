"""`value_config.json`: what a value checkpoint says about itself. Strict pydantic models; no torch.

Read by the HTTP process for the catalogue, by the worker and by training before they touch a tensor.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.guidance import Scoring

FORMAT_VERSION = 3
"""2 added `probe`; 3 its `origin`, and checkpoints without a trunk. Older ones are read as they are."""

CONFIG_FILE = "value_config.json"
TENSORS_FILE = "model.safetensors"
OBJECTIVE_NAME = r"^[a-z][a-z0-9_]{0,47}$"

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ObjectiveConfig(_Strict):
    """One objective and how its value head's output becomes a tilt.

    Attributes:
        name: what clients write in `objective_weights`.
        reward: id of the reward the values were trained on.
        mean, std: of the base model's reward on the training prompts, in the reward's own units.
        clip: the standardised reward was clipped to this range before training.
        scale: s_i for exact scoring: weight 1 at beta 1 costs about 5 nats over 64 tokens of the base's replies; None
            in a checkpoint without a trunk.
        metrics: held-out figures, name -> number.
    """

    name: Annotated[str, Field(pattern=OBJECTIVE_NAME)]
    description: str
    reward: str
    mean: Finite
    std: Positive
    clip: tuple[Finite, Finite] = (-5.0, 5.0)
    scale: Positive | None = None
    metrics: dict[str, Finite] = {}


class AdapterConfig(_Strict):
    """LoRA on a backbone's linear layers: W + (alpha / rank) * B @ A."""

    rank: Annotated[int, Field(ge=1)]
    alpha: Positive
    targets: tuple[str, ...]


class BackboneConfig(_Strict):
    """Which transformers decoder reads the tokens.

    Attributes:
        kind: "base" takes the first `layers` layers of the served base model; "model" loads `model` at `revision`.
        layers: how many decoder layers are kept; None keeps all.
        adapter: LoRA that training added; its tensors are in the checkpoint.
    """

    kind: Literal["base", "model"]
    layers: Annotated[int, Field(ge=1)] | None = None
    model: str | None = None
    revision: str | None = None
    adapter: AdapterConfig | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "BackboneConfig":
        if (self.kind == "model") != (self.model is not None):
            raise ValueError('backbone.model is given exactly when backbone.kind is "model"')
        return self


class HeadConfig(_Strict):
    """How hidden states become values: a linear map, or one hidden layer of `hidden` units shared by all objectives."""

    kind: Literal["linear", "mlp"]
    hidden: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _hidden_for_mlp(self) -> "HeadConfig":
        if (self.kind == "mlp") != (self.hidden is not None):
            raise ValueError('head.hidden is given exactly when head.kind is "mlp"')
        return self


class ProbeOrigin(_Strict):
    """How a probe was made.

    Attributes:
        distilled_from: id of the checkpoint whose exact values it began with; None: it began with nothing.
        advantages: it was then fitted to the rewards of sampled replies.
        rounds: how many of those fits saw replies tilted by the probe of the fit before.
        replies: how many replies it was fitted to.
    """

    distilled_from: str | None
    advantages: bool
    rounds: Annotated[int, Field(ge=0)]
    replies: Annotated[int, Field(ge=0)]


class ProbeConfig(_Strict):
    """A head that values all candidates at once from one hidden state: what `fast` scoring uses.

    See `valuemodels.models.probe` for the formula.

    Attributes:
        source: whose last hidden state it reads: the served base model's, or the value trunk's.
        hidden: units of the layer between the state and the queries.
        rank: size of the space in which states and tokens meet.
        scales: objective -> s_i for this scoring, calibrated as `ObjectiveConfig.scale` is.
        metrics: objective -> held-out figures, name -> number.
        origin: how it was made; None in checkpoints of version 2, whose probes were distilled from their own trunk.
    """

    source: Literal["base", "trunk"]
    hidden: Annotated[int, Field(ge=1)]
    rank: Annotated[int, Field(ge=1)]
    scales: dict[str, Positive]
    metrics: dict[str, dict[str, Finite]] = {}
    origin: ProbeOrigin | None = None


class TrainingConfig(_Strict):
    """Where the checkpoint comes from."""

    recipe: str
    iteration: Annotated[int, Field(ge=0)]
    data_hash: str
    prompts: dict[str, int] = {}


class ValueConfig(_Strict):
    """The whole of `value_config.json`.

    Attributes:
        tokenizer_fingerprint: `tokenizer_fingerprint()` of the base model's tokenizer at training.
        base_model: id of the base the rewards were standardised on, for people; what must match is the tokenizer and
            the backbone's shapes.
        backbone, head: the trunk, for exact scoring; None in a checkpoint that is a probe alone.
    """

    format_version: Literal[1, 2, 3]
    id: Annotated[str, Field(min_length=1)]
    base_model: str
    tokenizer_fingerprint: str
    objectives: Annotated[tuple[ObjectiveConfig, ...], Field(min_length=1)]
    backbone: BackboneConfig | None = None
    head: HeadConfig | None = None
    probe: ProbeConfig | None = None
    training: TrainingConfig

    @model_validator(mode="after")
    def _values_can_be_had(self) -> "ValueConfig":
        if (self.backbone is None) != (self.head is None):
            raise ValueError("backbone and head are given together, or neither of them")
        if self.backbone is None and self.probe is None:
            raise ValueError("a checkpoint has a backbone and a head, or a probe, or all of them")
        for objective in self.objectives:
            if (objective.scale is None) != (self.backbone is None):
                raise ValueError(f"scale of objective {objective.name} is given exactly when there is a backbone")
        return self

    @model_validator(mode="after")
    def _probe_scales_every_objective(self) -> "ValueConfig":
        if self.probe is not None and set(self.probe.scales) != set(self.names):
            raise ValueError(f"probe.scales names {sorted(self.probe.scales)}, allowed is {sorted(self.names)}")
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> "ValueConfig":
        names = [objective.name for objective in self.objectives]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"objective {doubled[0]} is listed twice")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(objective.name for objective in self.objectives)

    @property
    def trunk(self) -> tuple[BackboneConfig, HeadConfig]:
        """What reads candidates for exact scoring.

        Raises:
            CheckpointError: the checkpoint is a probe alone.
        """
        if self.backbone is None or self.head is None:
            raise CheckpointError(f"value checkpoint {self.id} has no trunk, so it offers no exact scoring")
        return self.backbone, self.head

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        """How this checkpoint can value candidates."""
        if self.probe is None:
            return ("exact",)
        return ("fast",) if self.backbone is None else ("exact", "fast", "hybrid")


def read_value_config(folder: str | Path) -> ValueConfig:
    """Read and check `value_config.json` of a checkpoint folder.

    Raises:
        CheckpointError: missing, unreadable, of a newer format, or with a wrong or unknown key.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"value checkpoint {folder} has no {CONFIG_FILE}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format_version {version}; this server reads up to {FORMAT_VERSION}, so update it"
        )
    try:
        return ValueConfig.model_validate_json(json.dumps(data), strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CheckpointError(f"{path}: {where}: {first['msg']} (got {str(first.get('input'))[:80]})") from None
