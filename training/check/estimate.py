"""How long a run should take and what it needs: orders of magnitude, from counts of operations. Pure Python.

A token costs 2 N operations to read or write with N parameters, and 4 N to learn from, where an adapter alone is
trained. Decoding and fitting reach the shares of a machine's speed that stand below, measured on two CPU cores with the
embedded base; other machines differ.
"""

from dataclasses import dataclass

from training.check.machine import Machine
from training.check.sizes import Sizes
from training.recipe import Recipe

SHARE_DECODING, SHARE_FITTING = 0.4, 0.4
TRIALS = 3
"""Of scales, for each objective: what calibration takes as a rule."""
OVERHEAD_S = 30.0
"""Of a stage that samples: an engine starts."""
PROMPT_TOKENS = 64
_RUNTIME_BYTES = 3 * 2**30
"""Of Python, torch, vLLM and its KV cache."""
_FLOAT, _ADAM = 4, 16
_ROW_BYTES = 24
"""Of a reply's token in a shard."""


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One stage of one round, by what it does most of."""

    name: str
    work: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A whole run. Bytes."""

    stages: tuple[StageEstimate, ...]
    memory: int
    disk: int

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)


def estimate(recipe: Recipe, prompts: dict[str, int], sizes: Sizes, machine: Machine) -> Estimate:
    """
    Args:
        prompts: of each split.
    """
    stages: list[StageEstimate] = []
    sampled = 0
    for number in range(recipe.iterations):
        replies, tokens = _replies(recipe, prompts, number)
        sampled += tokens
        decoded = 2 * sizes.base + (2 * sizes.trunk * recipe.calibrate.candidates if number else 0)
        name = f", round {number}" if recipe.iterations > 1 else ""
        sampling = OVERHEAD_S + tokens * decoded / (SHARE_DECODING * machine.flops)
        stages.append(StageEstimate(f"rollouts{name}", f"{replies} replies, {tokens} tokens at most", sampling))
        epochs = (number and recipe.rounds.epochs) or recipe.fit.epochs
        learned = epochs * (tokens + replies * PROMPT_TOKENS)
        fitting = 4 * sizes.trunk * learned / (SHARE_FITTING * machine.flops)
        stages.append(StageEstimate(f"fit{name}", f"{learned} positions", fitting))
        stages += _sampled_by_the_guide(recipe, prompts, sizes, machine, name)
    memory = _RUNTIME_BYTES + _FLOAT * (sizes.base + sizes.trunk + sizes.embeddings) + _ADAM * sizes.adapter
    disk = _ROW_BYTES * sampled + 4 * _ADAM * sizes.adapter * recipe.iterations
    return Estimate(tuple(stages), memory, disk)


def _replies(recipe: Recipe, prompts: dict[str, int], number: int) -> tuple[int, int]:
    """Replies of a round, and the most tokens that they take to sample."""
    rollout = recipe.rollout_of(number)
    replies, tokens = 0, 0.0
    for split, count in prompts.items():
        children = rollout.children(split)
        paths = 1
        for layer in children:
            paths *= layer
            # Layers share the length evenly on average.
            tokens += count * paths * rollout.max_tokens / len(children)
        replies += count * paths
    return replies, round(tokens)


def _sampled_by_the_guide(
    recipe: Recipe, prompts: dict[str, int], sizes: Sizes, machine: Machine, name: str
) -> list[StageEstimate]:
    decoded = 2 * sizes.base + 2 * sizes.trunk * recipe.calibrate.candidates

    def stage(what: str, replies: int) -> StageEstimate:
        seconds = OVERHEAD_S + replies * recipe.rollout.max_tokens * decoded / (SHARE_DECODING * machine.flops)
        return StageEstimate(f"{what}{name}", f"{replies} tilted replies", seconds)

    objectives = len(recipe.objectives)
    used = min(recipe.calibrate.prompts, prompts["validation"])
    found = [stage("calibrate", TRIALS * objectives * used)]
    if recipe.is_judged:
        limit = recipe.judging.limit
        held_out = limit if recipe.judging.prompts is not None else min(limit, prompts["test"])
        found.append(stage("judge", (objectives + (objectives > 1)) * held_out * recipe.judging.samples))
    return found
