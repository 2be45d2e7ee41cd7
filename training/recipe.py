"""A training recipe: everything a run depends on, as one validated YAML file.

Runs in any training process. Must not import torch or vllm. Recipes that ship lie in `training/recipes/`; a recipe is
named by that file name (`embedded`) or given as a path.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from valuemodels.contract.guide_config import DType
from valuemodels.contract.value_config import OBJECTIVE_NAME, BackboneConfig, HeadConfig

RECIPES = Path(__file__).parent / "recipes"
PROMPTS = Path(__file__).parent / "prompts"

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RecipeError(ValueError):
    """A recipe cannot be used; the message names file, key, what was given, and what is allowed."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ObjectiveRecipe(_Strict):
    """One objective: its name for clients, what it means, and the id of the reward in `training/rewards.py`."""

    name: Annotated[str, Field(pattern=OBJECTIVE_NAME)]
    description: str
    reward: str


class EngineRecipe(_Strict):
    """vLLM's own settings, for every stage that samples.

    Attributes:
        dtype: "auto" takes the base's own, but float32 on a CPU that cannot multiply bfloat16 natively.
        block_size: tokens a block of the KV cache; small ones let the replies to one prompt share its prefill.
    """

    dtype: DType = "auto"
    max_num_seqs: Count = 64
    max_model_len: Count = 1024
    block_size: Count = 32


class SplitRecipe(_Strict):
    """Shares of the prompts, together 1."""

    train: Share
    validation: Share
    test: Share

    @model_validator(mode="after")
    def _together_1(self) -> "SplitRecipe":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the shares sum to {total:g}, allowed is 1")
        return self


class RolloutRecipe(_Strict):
    """How replies are sampled.

    Attributes:
        samples: replies to each training prompt.
        held_out_samples: replies to each validation and test prompt.
        shard_prompts: how many prompts' replies are written at once; an interrupted run repeats one shard at most.
    """

    samples: Count
    held_out_samples: Count
    max_tokens: Count
    temperature: Positive
    shard_prompts: Count = 64


class FitRecipe(_Strict):
    """How the value model is fitted.

    Attributes:
        clip: standardised rewards are clipped to -clip .. clip.
        batch_tokens: tokens a batch, padding included.
        warmup: share of the steps in which the learning rate rises.
    """

    epochs: Count
    learning_rate: Positive
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: NotNegative = 0.0
    batch_tokens: Count = 4096
    clip: Positive = 5.0


class CalibrateRecipe(_Strict):
    """How the scales are found.

    Attributes:
        target_kl: nats a reply of `rollout.max_tokens` tokens that weight 1 at beta 1 shall cost.
        tolerance: nats; near enough.
        start: the first scale tried.
        max_evaluations: how many scales are tried at most, for each objective.
        prompts: how many validation prompts are used at most.
    """

    target_kl: Positive
    tolerance: Positive
    start: Positive = 4.0
    max_evaluations: Annotated[int, Field(ge=2)] = 4
    prompts: Count = 64
    candidates: Count = 40


class DistillRecipe(_Strict):
    """How a probe is distilled from exact values, for fast scoring.

    Attributes:
        source: whose final hidden state the probe reads.
        samples, held_out_samples: replies to each training prompt, and to each validation or test prompt. Half of them
            come from the base, half are tilted by exact values, at `rollout`'s temperature and length.
        max_weight: the weights of a tilted reply are drawn from -max_weight .. max_weight, one an objective.
        candidates: how many are valued at each position.
        shard_prompts: as in `RolloutRecipe`.
        hidden, rank: sizes of the probe, see `ProbeConfig`.
        batch_size: positions a step.
        mass_floor: share of a position's weight in the loss that its candidates have alike; the rest goes by the base's
            probability.
    """

    source: Literal["base"] = "base"
    samples: Count = 4
    held_out_samples: Count = 2
    max_weight: Positive = 1.5
    candidates: Count = 40
    shard_prompts: Count = 16
    hidden: Count = 512
    rank: Count = 128
    epochs: Count = 10
    learning_rate: Positive = 1e-3
    batch_size: Count = 1024
    weight_decay: NotNegative = 0.01
    mass_floor: Annotated[float, Field(ge=0, le=1)] = 0.3


class Recipe(_Strict):
    """The whole recipe.

    Attributes:
        base: "embedded", or a folder or hub id.
        prompts: a file in `training/prompts/`, or a path.
        limit: use only the first so many prompts of each split; None: all.
    """

    name: Annotated[str, Field(min_length=1)]
    base: str
    base_revision: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    prompts: str
    split: SplitRecipe
    limit: Count | None = None
    objectives: Annotated[tuple[ObjectiveRecipe, ...], Field(min_length=1)]
    engine: EngineRecipe = EngineRecipe()
    rollout: RolloutRecipe
    backbone: BackboneConfig
    head: HeadConfig
    fit: FitRecipe
    calibrate: CalibrateRecipe
    distill: DistillRecipe = DistillRecipe()

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Recipe":
        names = [objective.name for objective in self.objectives]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"objective {doubled[0]} is listed twice")
        return self

    @property
    def prompts_path(self) -> Path:
        shipped = PROMPTS / self.prompts
        return shipped if shipped.is_file() else Path(self.prompts)


def read_recipe(name_or_path: str) -> Recipe:
    """Read a shipped recipe by its name, or any recipe by its path.

    Raises:
        RecipeError: it is missing, not YAML, or a key is unknown, missing or out of range.
    """
    shipped = RECIPES / f"{name_or_path}.yaml"
    path = shipped if shipped.is_file() else Path(name_or_path)
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise RecipeError(f"recipe: got {name_or_path!r}, allowed is {names}, or the path of a YAML file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from None
    return parse_recipe(content, str(path))


def parse_recipe(content: Any, source: str) -> Recipe:
    """Validate a recipe's content.

    Raises:
        RecipeError: naming the key, what was given, and what is allowed.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        if first["type"] == "extra_forbidden":
            raise RecipeError(f"{source}: {where}: unknown key, allowed is {_known_keys(first['loc'])}") from None
        raise RecipeError(f"{source}: {where}: {first['msg']} (got {str(first.get('input'))[:80]})") from None


def _known_keys(location: tuple[int | str, ...]) -> str:
    model: Any = Recipe
    for part in location[:-1]:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            model = next(inner for inner in _models_in(annotation))
    return "one of " + ", ".join(model.model_fields)


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models_in(inner)]
