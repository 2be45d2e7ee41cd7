"""The fit's data: tokens and standardised rewards of every reply, by split.

Runs in the fit's process. Imports torch, never vllm.
"""

from dataclasses import dataclass

import torch

from training.dataset import Example
from training.prompt_set import SPLITS, SplitName
from training.run import Run
from training.scoring import read_rewards
from training.shards import read_rollouts
from training.targets import standardise


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Scored replies of the three splits; no prompt is in two of them."""

    objectives: tuple[str, ...]
    examples: dict[SplitName, list[Example]]


def load_training_data(run: Run) -> TrainingData:
    """What the rollouts and rewards stages left."""
    names = tuple(objective.name for objective in run.recipe.objectives)
    rewards = read_rewards(run.finished("rewards"), names)
    rollouts = read_rollouts(run.finished("rollouts"))
    base = run.stage("rewards").summary()["base"]
    standardised = standardise(
        torch.tensor([rewards[rollout.prompt_id, rollout.sample] for rollout in rollouts], dtype=torch.float64),
        torch.tensor([base[name]["mean"] for name in names], dtype=torch.float64),
        torch.tensor([base[name]["std"] for name in names], dtype=torch.float64),
        run.recipe.fit.clip,
    ).float()
    examples: dict[SplitName, list[Example]] = {name: [] for name in SPLITS}
    for rollout, row in zip(rollouts, standardised.tolist(), strict=True):
        tokens = rollout.prompt_token_ids + rollout.output_token_ids
        examples[rollout.split].append(Example(tokens, len(rollout.prompt_token_ids), tuple(row)))
    return TrainingData(names, examples)
