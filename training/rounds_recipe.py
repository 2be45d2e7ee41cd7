"""The part of a training recipe that says how value models go on from round to round, and how a round is judged.

Runs in any training process. Must not import torch or vllm.
"""

from training.fast_recipe import Count, Positive, Strict, TiltRecipe


class RoundsRecipe(Strict):
    """What is different in the rounds after the first. They sample from the tilted policy of the best round before.

    Attributes:
        samples, below: of the trees on training prompts, see `RolloutRecipe`; None: as in the first round.
        epochs, learning_rate: of the fit, which begins with the values that tilted; None: as in the first round.
        tilts: by which weights. A tree is tilted by one objective alone, and teaches that one; or, `mixed`, by all.
    """

    samples: Count | None = None
    below: tuple[Count, ...] | None = None
    epochs: Count | None = None
    learning_rate: Positive | None = None
    tilts: TiltRecipe = TiltRecipe(low=1.0, high=1.0, negative=0.0, mixed=0.0)


class JudgeRecipe(Strict):
    """How a round is judged, by replies to the same held-out prompts in every round.

    Attributes:
        prompts: a file in `training/prompts/`, or a path; None: the recipe's own test prompts.
        limit: how many of them at most; samples: replies to each, in every setting.
    """

    prompts: str | None = None
    limit: Count = 100
    samples: Count = 2
