"""The stage that scores the rollouts: every objective's reward of every reply, and the base's mean and spread.

Runs in its own process, started by `training.rounds`. Must not import torch or vllm.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.prompts.chat import read_prompt_set
from training.prompts.stage import PROMPTS_FILE
from training.recipe import ObjectiveRecipe
from training.rewards.reward import Reward, checked_scores, load_reward, refuse_constant
from training.rollouts.shards import Rollout, read_rollouts
from training.runs.progress import Advance, progress
from training.runs.run import Run
from training.runs.run_dir import read_json, replacing, write_json

REWARDS_FILE = "rewards.parquet"
SHARD_REPLIES = 1024


def score_rollouts(run: Run) -> dict[str, Any]:
    """Score all replies, shard by shard; what an interrupted run, or a service that broke down, has scored stays.

    Mean and standard deviation are those of the training replies alone.
    """
    folder = run.stage("rewards").folder
    rollouts = read_rollouts(run.finished("rollouts"))
    texts = {prompt.prompt_id: prompt.text for prompt in read_prompt_set(run.at(0).finished("prompts") / PROMPTS_FILE)}
    columns: dict[str, Sequence[Any]] = {
        "prompt_id": [rollout.prompt_id for rollout in rollouts],
        "sample": [rollout.sample for rollout in rollouts],
    }
    base: dict[str, dict[str, float]] = {}
    with progress("rewards", len(run.recipe.objectives) * len(rollouts)) as advance:
        for objective in run.recipe.objectives:
            scores = _scores(folder, objective, rollouts, texts, advance)
            refuse_constant(objective.name, scores)
            columns[objective.name] = scores
            trained_on = [r for r, rollout in zip(scores, rollouts, strict=True) if rollout.split == "train"]
            base[objective.name] = {"mean": fmean(trained_on), "std": stdev(trained_on)}
    with replacing(folder / REWARDS_FILE) as partial:
        pq.write_table(pa.table(columns), partial)
    return {"replies": len(rollouts), "base": base}


def _scores(
    folder: Path, objective: ObjectiveRecipe, rollouts: Sequence[Rollout], texts: Mapping[str, str], advance: Advance
) -> list[float]:
    """One objective's rewards of all replies; those of a part are on disk before the next is asked for."""
    reward: Reward | None = None
    scores: list[float] = []
    for start in range(0, len(rollouts), SHARD_REPLIES):
        part = rollouts[start : start + SHARD_REPLIES]
        path = folder / f"{objective.name}_{start // SHARD_REPLIES:04d}.json"
        if not path.is_file():
            reward = reward or load_reward(objective.reward_id)
            prompts, replies = [texts[rollout.prompt_id] for rollout in part], [rollout.text for rollout in part]
            write_json(path, checked_scores(objective.name, reward, prompts, replies))
        scores += read_json(path)
        advance(len(part), objective.name)
    return scores


def read_rewards(folder: Path, objectives: Sequence[str]) -> dict[tuple[str, int], tuple[float, ...]]:
    """Rewards of every reply, by (prompt id, sample), in the objectives' order and the rewards' own units."""
    columns = pq.read_table(folder / REWARDS_FILE).to_pydict()
    keys = zip(columns["prompt_id"], columns["sample"], strict=True)
    return dict(zip(keys, zip(*(columns[name] for name in objectives), strict=True), strict=True))
