"""The stage that regresses one trunk, a head for each objective, on the teachers' values at every position.

Runs in its own process, started by `training.rounds`. Imports torch, never vllm.
"""

from typing import Any

import torch

from training.distill.run import DistillRun
from training.distill.teacher_values import read_values, rollout_shards
from training.fit.dataset import Example, TrainingData
from training.fit.stage import fit_to
from training.fit.targets import PathTargets
from training.prompts.chat import SPLITS, SplitName
from training.rollouts.shards import read_shard

EXPLAINED_OF_TEACHER = "explained_variance_of_teacher"


def fit_student(run: DistillRun) -> dict[str, Any]:
    """Fit; the held-out figures say how much of the teachers' variance it explains."""
    run.finished("teacher_values")
    return fit_to(run, load_teacher_values(run), EXPLAINED_OF_TEACHER)


def load_teacher_values(run: DistillRun) -> TrainingData:
    """Replies whose targets are the teachers' values."""
    examples: dict[SplitName, list[Example]] = {name: [] for name in SPLITS}
    for shard in rollout_shards(run):
        values, start = read_values(run, shard), 0
        for rollout in read_shard(shard):
            positions = 1 + len(rollout.output_token_ids)
            targets = PathTargets(values[start : start + positions], torch.ones(positions, dtype=torch.bool))
            tokens = rollout.prompt_token_ids + rollout.output_token_ids
            if run.learns_from(rollout.split, rollout.sample):
                examples[rollout.split].append(Example(tokens, len(rollout.prompt_token_ids), targets))
            start += positions
    return TrainingData(tuple(run.rewards), examples)
