"""By which weights a reply, or a whole tree, of a later round is tilted.

Runs in any training process. Must not import torch or vllm.
"""

import random
from collections.abc import Mapping, Sequence

from training.fast_recipe import TiltRecipe
from training.runs.run import Run


def draw_weights(objectives: Sequence[str], tilts: TiltRecipe, dice: random.Random) -> dict[str, float]:
    """Weights by lot: of all objectives, or of one alone."""
    is_mixed = dice.random() < tilts.mixed
    chosen = objectives if is_mixed else [dice.choice(objectives)]
    return {
        name: dice.uniform(tilts.low, tilts.high) * (-1 if dice.random() < tilts.negative else 1) for name in chosen
    }


def tree_weights(run: Run, prompt_id: str) -> dict[str, float]:
    """The weights that tilt the tree on a prompt; none in the first round, which samples from the base."""
    if run.iteration == 0:
        return {}
    dice = random.Random(f"{run.recipe.seed}:{run.iteration}:{prompt_id}")
    return draw_weights(list(run.rewards), run.recipe.rounds.tilts, dice)


def prices(zeta: float, weights: Mapping[str, float], objectives: Sequence[str]) -> list[float]:
    """What a nat costs each objective, so that together, as weighed, they pay `zeta` for it.

    What a policy tilted by weights w is worth is sum_i w_i (r_i - zeta_i KL), where

        zeta_i = zeta sign(w_i) / sum_j |w_j|

    which is sum_i w_i r_i - zeta KL. With one objective at weight 1 that is r - zeta KL (MAVIS, arXiv 2508.13415).

    Args:
        weights: none of a reply of the base, which costs nothing.
    """
    total = sum(map(abs, weights.values()))
    signs = {name: (weight > 0) - (weight < 0) for name, weight in weights.items()}
    return [zeta * signs.get(name, 0) / total if total else zeta for name in objectives]
