"""The stage that scores the rollouts: every objective's reward of every reply, and the base's mean and spread.

Runs in its own process, started by `training.rounds`. Must not import torch or vllm.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.prompts.chat import read_prompt_set
from training.prompts.stage import PROMPTS_FILE
from training.rewards.reward import load_reward, score
from training.rollouts.shards import read_rollouts
from training.runs.progress import progress
from training.runs.run import Run
from training.runs.run_dir import replacing

REWARDS_FILE = "rewards.parquet"


def score_rollouts(run: Run) -> dict[str, Any]:
    """Score all replies; mean and standard deviation are those of the training replies alone."""
    rollouts = read_rollouts(run.finished("rollouts"))
    texts = {prompt.prompt_id: prompt.text for prompt in read_prompt_set(run.finished("prompts") / PROMPTS_FILE)}
    prompts, replies = [texts[rollout.prompt_id] for rollout in rollouts], [rollout.text for rollout in rollouts]
    columns: dict[str, Sequence[Any]] = {
        "prompt_id": [rollout.prompt_id for rollout in rollouts],
        "sample": [rollout.sample for rollout in rollouts],
    }
    base: dict[str, dict[str, float]] = {}
    with progress("rewards", len(run.recipe.objectives)) as advance:
        for objective in run.recipe.objectives:
            rewards = score(objective.name, load_reward(objective.reward_id), prompts, replies)
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
