"""A training recipe: everything a run depends on, as one validated YAML file.

Runs in any training process. Must not import torch or vllm. Recipes that ship lie in `training/recipes/`; a recipe is
named by that file name (`embedded`) or given as a path.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from training.fast_recipe import Count, FastRecipe, NotNegative, Positive, Share, Strict
from training.prompts_recipe import DatasetRecipe, find_prompts
from training.rounds_recipe import JudgeRecipe, RoundsRecipe
from valuemodels.contract.guide_config import DType
from valuemodels.contract.policy import DEFAULT_CANDIDATES
from valuemodels.contract.value_config import OBJECTIVE_NAME, AdapterConfig, BackboneConfig, HeadConfig
from valuemodels.sources.embedded import EMBEDDED

TRUNK = BackboneConfig(
    kind="base",
    layers=6,
    adapter=AdapterConfig(
        rank=32, alpha=64, targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    ),
)
"""The trunk of a recipe that names none: the first layers of a base as Llama's are built."""


def reward_id(reward: str, parameters: Mapping[str, Any]) -> str:
    """A reward and its parameters in one text, which checkpoints keep and `load_reward` reads."""
    return f"{reward} {json.dumps(parameters, sort_keys=True)}" if parameters else reward


class ObjectiveRecipe(Strict):
    """One objective and the reward it is trained on.

    Attributes:
        name: what clients call it; description: what it means, one sentence.
        reward: id of a shipped reward, `module:Class` or `module:function`; see `training.rewards.reward`.
        reward_parameters: keyword arguments of the reward's class, or of the function beside prompts and replies.
    """

    name: Annotated[str, Field(pattern=OBJECTIVE_NAME)]
    description: str
    reward: str
    reward_parameters: dict[str, Any] = Field(default_factory=dict)

    @property
    def reward_id(self) -> str:
        """Reward and parameters in one text."""
        return reward_id(self.reward, self.reward_parameters)


class EngineRecipe(Strict):
    """vLLM's own settings, for every stage that samples.

    Attributes:
        dtype: "auto" takes the base's own, but float32 on a CPU that cannot multiply bfloat16 natively.
        block_size: tokens a block of the KV cache; small ones let the replies to one prompt share its prefill.
    """

    dtype: DType = "auto"
    max_num_seqs: Count = 64
    max_model_len: Count = 1024
    block_size: Count = 32


class Fractions(Strict):
    """Shares of the prompts that are trained on, validated on and tested on: together 1."""

    train: Share = 0.7
    validation: Share = 0.15
    test: Share = 0.15

    @model_validator(mode="after")
    def _together_1(self) -> "Fractions":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the shares sum to {total:g}, allowed is 1")
        return self


class RolloutRecipe(Strict):
    """How replies are sampled.

    Attributes:
        samples: replies to each training prompt; held_out_samples: to each other prompt.
        below: makes rollout trees of the replies to training prompts: how many segments follow on each of the
            `samples`, on each of those, and so on; () leaves every reply on its own.
        shard_prompts: how many prompts' replies are written at once; an interrupted run repeats one shard at most.
    """

    samples: Count = 8
    held_out_samples: Count = 4
    max_tokens: Count = 64
    temperature: Positive = 1.0
    below: tuple[Count, ...] = ()
    shard_prompts: Count = 64

    def children(self, split: str) -> tuple[int, ...]:
        """Of each path of a split's trees, in each layer, the root's first."""
        return (self.samples, *self.below) if split == "train" else (self.held_out_samples,)

    @model_validator(mode="after")
    def _layers_have_tokens(self) -> "RolloutRecipe":
        if (layers := 1 + len(self.below)) > self.max_tokens:
            raise ValueError(f"below: {layers} layers do not fit a reply of max_tokens {self.max_tokens}")
        return self


class FitRecipe(Strict):
    """How the value model is fitted.

    Attributes:
        clip: standardised rewards are clipped to -clip .. clip.
        zeta: what a nat of KL divergence from the base costs, in standard deviations of the base's reward.
        bottom_share: of the nodes in the last layer of rollout trees, how many are learned from.
        replies: only the first so many of each training prompt are learned from; None: all.
        processes: how many fit together, on a GPU each where there are GPUs; a step then learns of as many batches.
        sharded: the trunk is spread over them (FSDP), where it does not fit one GPU; else each has the whole (DDP).
        batch_tokens: tokens a batch, padding included.
        warmup: share of the steps in which the learning rate rises.
    """

    epochs: Count = 3
    learning_rate: Positive = 1e-3
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: NotNegative = 0.0
    batch_tokens: Count = 4096
    clip: Positive = 5.0
    zeta: NotNegative = 0.0
    bottom_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    replies: Count | None = None
    processes: Count = 1
    sharded: bool = False

    @model_validator(mode="after")
    def _sharded_over_several(self) -> "FitRecipe":
        if self.sharded and self.processes == 1:
            raise ValueError("sharded: got true with 1 of processes, allowed is true with 2 or more")
        return self


class CalibrateRecipe(Strict):
    """How the scales are found.

    Attributes:
        target_kl: nats a reply of `rollout.max_tokens` tokens that weight 1 at beta 1 shall cost.
        tolerance: nats; a run in which no trial comes this near fails.
        start: the first scale tried.
        max_evaluations: how many scales are tried at most, for each objective.
        prompts: how many validation prompts are used at most.
    """

    target_kl: Positive = 4.8
    tolerance: Positive = 0.2
    start: Positive = 4.0
    max_evaluations: Annotated[int, Field(ge=2)] = 6
    prompts: Count = 64
    candidates: Count = DEFAULT_CANDIDATES


class Recipe(Strict):
    """The whole recipe.

    Attributes:
        base: "embedded", or a folder or hub id.
        prompts: a file in `training/prompts/`, or a path; or a dataset.
        limit: use only the first so many prompts of each split, and invent no more; None: all.
        iterations: rounds of value models; from the second on they sample from the tilted policy of the best before.
        judge: None: rounds are judged only where there are several of value models.
    """

    name: Annotated[str, Field(min_length=1)]
    base: str = EMBEDDED
    base_revision: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    prompts: str | DatasetRecipe = "embedded.jsonl"
    split: Fractions = Fractions()
    limit: Count | None = None
    objectives: Annotated[tuple[ObjectiveRecipe, ...], Field(min_length=1)]
    engine: EngineRecipe = EngineRecipe()
    rollout: RolloutRecipe = RolloutRecipe()
    backbone: BackboneConfig = TRUNK
    head: HeadConfig = HeadConfig(kind="mlp", hidden=256)
    fit: FitRecipe = FitRecipe()
    calibrate: CalibrateRecipe = CalibrateRecipe()
    iterations: Count = 1
    rounds: RoundsRecipe = RoundsRecipe()
    judge: JudgeRecipe | None = None
    fast: FastRecipe = FastRecipe()

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Recipe":
        names = [objective.name for objective in self.objectives]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"objective {doubled[0]} is listed twice")
        return self

    def changed(self, **asked: Any) -> "Recipe":
        """The recipe with what a command line says, where it says something."""
        return self.model_copy(update={name: value for name, value in asked.items() if value is not None})

    def rollout_of(self, iteration: int) -> RolloutRecipe:
        """How the replies of a round are sampled."""
        if iteration == 0:
            return self.rollout
        changes = self.rounds.model_dump(include={"samples", "below"}, exclude_none=True)
        return self.rollout.model_copy(update=changes)

    @property
    def invented_prompts(self) -> int:
        """How many prompts the base invents for a probe: what tries a recipe out on few prompts wants few of these."""
        return min(self.fast.invented_prompts, self.limit or self.fast.invented_prompts)

    @property
    def is_judged(self) -> bool:
        """Whether rounds are judged."""
        return self.judge is not None or self.iterations > 1

    @property
    def judging(self) -> JudgeRecipe:
        """How they are judged."""
        return self.judge or JudgeRecipe()

    @model_validator(mode="after")
    def _later_layers_have_tokens(self) -> "Recipe":
        if (layers := 1 + len(self.rounds.below or ())) > self.rollout.max_tokens:
            raise ValueError(
                f"rounds.below: {layers} layers do not fit a reply of max_tokens {self.rollout.max_tokens}"
            )
        return self

    @property
    def prompts_path(self) -> Path:
        """Where the prompts lie: a file, or a dataset's folder or name on the hub."""
        name = self.prompts.dataset if isinstance(self.prompts, DatasetRecipe) else self.prompts
        return find_prompts(name)
