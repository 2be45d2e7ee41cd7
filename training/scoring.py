"""The stage that scores the rollouts: every objective's reward of every reply, and the base's mean and spread.

Runs in its own process, started by `training.stages`. Must not import torch or vllm.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.progress import progress
from training.prompt_set import read_prompt_set
from training.rewards import load_reward, score
from training.rollouts.stage import PROMPTS_FILE
from training.run import Run
from training.run_dir import replacing
from training.shards import read_rollouts

REWARDS_FILE = "rewards.parquet"


def score_rollouts(run: Run) -> dict[str, Any]:
    """Score all replies; mean and standard deviation are those of the training replies alone."""
    rollouts = read_rollouts(run.finished("rollouts"))
    texts = {prompt.prompt_id: prompt.text for prompt in read_prompt_set(run.finished("prompts") / PROMPTS_FILE)}
    prompts = [texts[rollout.prompt_id] for rollout in rollouts]
    columns: dict[str, Sequence[Any]] = {
        "prompt_id": [rollout.prompt_id for rollout in rollouts],
        "sample": [rollout.sample for rollout in rollouts],
    }
    base: dict[str, dict[str, float]] = {}
    with progress("rewards", len(run.recipe.objectives)) as advance:
        for objective in run.recipe.objectives:
            rewards = score(load_reward(objective.reward), prompts, [rollout.text for rollout in rollouts])
            columns[objective.name] = rewards
            trained_on = [r for r, rollout in zip(rewards, rollouts, strict=True) if rollout.split == "train"]
            base[objective.name] = {"mean": fmean(trained_on), "std": stdev(trained_on)}
            advance(1, objective.name)
    with replacing(run.stage("rewards").folder / REWARDS_FILE) as partial:
        pq.write_table(pa.table(columns), partial)
    return {"replies": len(rollouts), "base": base}


def read_rewards(folder: Path, objectives: Sequence[str]) -> dict[tuple[str, int], tuple[float, ...]]:
    """Rewards of every reply, by (prompt id, sample), in the objectives' order and the rewards' own units."""
    columns = pq.read_table(folder / REWARDS_FILE).to_pydict()
    keys = zip(columns["prompt_id"], columns["sample"], strict=True)
    return dict(zip(keys, zip(*(columns[name] for name in objectives), strict=True), strict=True))
