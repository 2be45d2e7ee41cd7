"""A training recipe: everything a run depends on, as one validated YAML file.

Runs in any training process. Must not import torch or vllm. Recipes that ship lie in `training/recipes/`; a recipe is
named by that file name (`embedded`) or given as a path.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from valuemodels.contract.guide_config import DType
from valuemodels.contract.policy import DEFAULT_CANDIDATES
from valuemodels.contract.value_config import OBJECTIVE_NAME, BackboneConfig, HeadConfig

PROMPTS = Path(__file__).parent / "prompts"

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ObjectiveRecipe(_Strict):
    """One objective and the reward it is trained on.

    Attributes:
        name: what clients call it; description: what it means, one sentence.
        reward: id of a shipped reward, or `module:Class`; see `training.rewards.reward`.
        reward_parameters: keyword arguments of the reward's class.
    """

    name: Annotated[str, Field(pattern=OBJECTIVE_NAME)]
    description: str
    reward: str
    reward_parameters: dict[str, Any] = {}

    @property
    def reward_id(self) -> str:
        """The reward and its parameters in one text, which checkpoints keep and `load_reward` reads."""
        parameters = self.reward_parameters
        return f"{self.reward} {json.dumps(parameters, sort_keys=True)}" if parameters else self.reward


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


class Fractions(_Strict):
    """Shares of the prompts that are trained on, validated on and tested on: together 1."""

    train: Share
    validation: Share
    test: Share

    @model_validator(mode="after")
    def _together_1(self) -> "Fractions":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the shares sum to {total:g}, allowed is 1")
        return self


class _Samples(_Strict):
    """How many replies each prompt gets: `samples` on training prompts, `held_out_samples` on all others."""

    samples: Count
    held_out_samples: Count

    def of(self, split: str) -> int:
        """Replies to each prompt of a split."""
        return self.samples if split == "train" else self.held_out_samples


class RolloutRecipe(_Samples):
    """How replies are sampled.

    Attributes:
        shard_prompts: how many prompts' replies are written at once; an interrupted run repeats one shard at most.
    """

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
        tolerance: nats; a run in which no trial comes this near fails.
        start: the first scale tried.
        max_evaluations: how many scales are tried at most, for each objective.
        prompts: how many validation prompts are used at most.
    """

    target_kl: Positive
    tolerance: Positive
    start: Positive = 4.0
    max_evaluations: Annotated[int, Field(ge=2)] = 6
    prompts: Count = 64
    candidates: Count = DEFAULT_CANDIDATES


class DistillRecipe(_Samples):
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
    candidates: Count = DEFAULT_CANDIDATES
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
    split: Fractions
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
