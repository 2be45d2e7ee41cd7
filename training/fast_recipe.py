"""The part of a training recipe that says how a probe is made, for fast scoring; and what all parts are built from.

Runs in any training process. Must not import torch or vllm.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
UpToOne = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Strict(BaseModel):
    """Refuses unknown keys, and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PickRecipe(Strict):
    """Which candidates are looked at.

    Attributes:
        positions: at which share of a reply's positions, by lot.
        likeliest, others: at each position, how many of the likeliest candidates, and of all others by lot.
    """

    positions: Annotated[float, Field(gt=0, le=1)] = 0.5
    likeliest: Count = 4
    others: Count = 8


class LabelRecipe(PickRecipe):
    """Which exact values a probe is distilled from.

    Attributes:
        replies: how many of the base's replies are labelled.
    """

    replies: Count = 600


class DistillRecipe(Strict):
    """How a probe is distilled from exact values.

    Attributes:
        batch_size: positions a step.
        mass_floor: share of a position's weight in the loss that its candidates have alike; the rest goes by the base's
            probability.
    """

    epochs: Count = 8
    learning_rate: Positive = 2e-3
    batch_size: Count = 1024
    weight_decay: NotNegative = 0.01
    mass_floor: UpToOne = 0.3


class CriticRecipe(Strict):
    """How the critic is fitted, which says what a reply is worth at each of its positions.

    Attributes:
        prefix_every: the rewards of a reply's prefixes are computed at every so many tokens. It is what makes the
            critic good, so only dear rewards should make it larger than 1.
        gae_lambda: of the advantages (generalised advantage estimation, arXiv 1506.02438).
    """

    hidden: Count = 256
    epochs: Count = 2
    learning_rate: Positive = 1e-3
    batch_size: Count = 1024
    prefix_every: Count = 1
    gae_lambda: UpToOne = 0.5


class AdvantageRecipe(Strict):
    """How a probe is fitted to the advantages of sampled replies.

    Attributes:
        teacher_weight: how much the labels count beside them, where there are some: a look ahead's, or a teacher's.
    """

    epochs: Count = 2
    learning_rate: Positive = 5e-4
    batch_size: Count = 1024
    weight_decay: NotNegative = 0.01
    teacher_weight: NotNegative = 0.1


class TiltRecipe(Strict):
    """By which weights the replies of later rounds are tilted.

    Attributes:
        low, high: sizes of the weights, in the scales that `calibrate.target_kl` asks for.
        negative, mixed: shares of the weights below 0, and of the replies tilted by all objectives at once.
    """

    low: Positive = 0.4
    high: Positive = 1.3
    negative: UpToOne = 0.25
    mixed: UpToOne = 0.2


class FastRecipe(Strict):
    """How the probe is made, for fast scoring.

    Attributes:
        source: whose final hidden state the probe reads.
        hidden, rank: sizes of the probe, see `ProbeConfig`.
        invented_prompts: how many more prompts to train on the base is asked to invent.
        samples: replies of the base to each prompt; held_out_samples: to each validation prompt.
        rounds: tilted replies to each prompt, one number a round; none: the base's replies alone.
        shard_prompts: how many prompts' replies are written at once; an interrupted run repeats one shard at most.
        lookahead: the candidates whose rewards the probe begins with; None: a teacher's exact values, if it has one.
    """

    source: Literal["base"] = "base"
    hidden: Count = 512
    rank: Count = 128
    invented_prompts: Annotated[int, Field(ge=0)] = 700
    samples: Count = 1
    held_out_samples: Count = 2
    rounds: tuple[Count, ...] = (1,)
    shard_prompts: Count = 256
    lookahead: PickRecipe | None = None
    labels: LabelRecipe = LabelRecipe()
    distill: DistillRecipe = DistillRecipe()
    critic: CriticRecipe = CriticRecipe()
    advantages: AdvantageRecipe = AdvantageRecipe()
    tilts: TiltRecipe = TiltRecipe()

    @model_validator(mode="after")
    def _looks_ahead_at_cheap_rewards(self) -> "FastRecipe":
        # The look ahead sets candidates' own rewards beside those of the next prefix, which have to be its own, too.
        if self.lookahead is not None and self.critic.prefix_every > 1:
            raise ValueError(f"lookahead: goes with critic.prefix_every 1, and not with {self.critic.prefix_every}")
        return self
