"""The stage that scores the rollouts: every objective's reward of every reply, and the base's mean and spread.

Runs in its own process, started by `training.rounds`. Must not import torch or vllm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset

from training.prompts.chat import read_prompt_set
from training.prompts.stage import PROMPTS_FILE
from training.recipe import ObjectiveRecipe
from training.rewards.reward import Reward, checked_scores, load_reward, refuse_constant
from training.rollouts.shards import Rollout, read_rollouts, write_parquet
from training.rollouts.workers import carry_out_shards
from training.runs.run import REWARDS_FILE, Run
from training.runs.run_dir import read_json, write_json

SHARD_REPLIES = 1024


def score_rollouts(run: Run) -> dict[str, Any]:
    """Score all replies, shard by shard; what an interrupted run, or a service that broke down, has scored stays.

    Mean and standard deviation are those of the training replies alone.
    """
    work = RewardShards(run)
    carry_out_shards(work, run.workers)
    rollouts, found = work.rollouts, work.scores()
    columns: dict[str, list[Any]] = {
        "prompt_id": [rollout.prompt_id for rollout in rollouts],
        "sample": [rollout.sample for rollout in rollouts],
        **found,
    }
    base: dict[str, dict[str, float]] = {}
    for name, scores in found.items():
        refuse_constant(name, scores)
        trained_on = [r for r, rollout in zip(scores, rollouts, strict=True) if rollout.split == "train"]
        base[name] = {"mean": fmean(trained_on), "std": stdev(trained_on)}
    write_parquet(run.stage("rewards").folder / REWARDS_FILE, Dataset.from_dict(columns))
    return {"replies": len(rollouts), "base": base}


@dataclass
class RewardShards:
    """One objective's rewards of so many replies each, objective by objective."""

    run: Run
    description: str = "rewards"

    def sizes(self) -> list[int]:
        """Replies of each shard."""
        return [len(self._part(start)) for _, start in self._shards]

    def is_done(self, index: int) -> bool:
        """Whether its rewards are there."""
        return self._path(index).is_file()

    def prepare(self) -> None:
        """Rewards are loaded as they are needed: where one is done, it is not."""

    def carry_out(self, index: int) -> int:
        """Score a shard's replies. Returns how many tokens they have."""
        objective, start = self._shards[index]
        part, texts = self._part(start), self._texts
        if objective.name not in self._rewards:
            self._rewards[objective.name] = load_reward(objective.reward_id)
        prompts, replies = [texts[rollout.prompt_id] for rollout in part], [rollout.text for rollout in part]
        scores = checked_scores(objective.name, self._rewards[objective.name], prompts, replies)
        write_json(self._path(index), scores)
        return sum(len(rollout.output_token_ids) for rollout in part)

    def scores(self) -> dict[str, list[float]]:
        """Objective -> rewards of all replies, once every shard is done."""
        found: dict[str, list[float]] = {objective.name: [] for objective in self.run.recipe.objectives}
        for index, (objective, _) in enumerate(self._shards):
            found[objective.name] += read_json(self._path(index))
        return found

    @cached_property
    def rollouts(self) -> list[Rollout]:
        """All replies."""
        return read_rollouts(self.run.finished("rollouts"))

    @cached_property
    def _shards(self) -> list[tuple[ObjectiveRecipe, int]]:
        starts = range(0, len(self.rollouts), SHARD_REPLIES)
        return [(objective, start) for objective in self.run.recipe.objectives for start in starts]

    @cached_property
    def _texts(self) -> dict[str, str]:
        prompts = read_prompt_set(self.run.at(0).finished("prompts") / PROMPTS_FILE)
        return {prompt.prompt_id: prompt.text for prompt in prompts}

    @cached_property
    def _rewards(self) -> dict[str, Reward]:
        return {}

    def _part(self, start: int) -> Sequence[Rollout]:
        return self.rollouts[start : start + SHARD_REPLIES]

    def _path(self, index: int) -> Path:
        objective, start = self._shards[index]
        return self.run.stage("rewards").folder / f"{objective.name}_{start // SHARD_REPLIES:04d}.json"


def read_rewards(folder: Path, objectives: Sequence[str]) -> dict[tuple[str, int], tuple[float, ...]]:
    """Rewards of every reply, by (prompt id, sample), in the objectives' order and the rewards' own units."""
    columns = pq.read_table(folder / REWARDS_FILE).to_pydict()
    keys = zip(columns["prompt_id"], columns["sample"], strict=True)
    return dict(zip(keys, zip(*(columns[name] for name in objectives), strict=True), strict=True))
