"""Replies under one condition in figures: their KL, and every objective's reward.

Runs in the process of a measuring command. Must not import torch or vllm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.evaluate.checkpoint import EvaluatedCheckpoint
from training.prompts.chat import ChatPrompt
from training.recipe import EngineRecipe
from training.rewards.reward import Reward, load_reward
from training.rollouts.engine import Limits, RolloutEngine
from training.rollouts.sampler import Condition, Sampler
from training.rollouts.shards import Rollout
from training.runs.progress import Advance
from valuemodels.contract.value_config import ObjectiveConfig

_cached_reward = lru_cache(load_reward)


@dataclass(frozen=True, slots=True)
class Scored:
    """The replies of one condition.

    Attributes:
        replies: prompt by prompt, all samples of a prompt together.
        kl_nats: [prompts, samples].
        rewards: objective -> [prompts, samples], in the reward's own units.
    """

    replies: Sequence[Rollout]
    kl_nats: NDArray[np.float64]
    rewards: dict[str, NDArray[np.float64]]


def sampler_on(
    checkpoint: EvaluatedCheckpoint, folder: Path, prompts: Sequence[ChatPrompt], max_tokens: int, seed: int
) -> Sampler:
    """Samples from a checkpoint through the guide that serves; the engine starts with the first missing reply."""
    return Sampler(
        folder=folder,
        engine=cache(lambda: RolloutEngine(checkpoint.base, EngineRecipe(), checkpoint.guide)),
        sampled_from=checkpoint.inputs(),
        prompts=prompts,
        limits=Limits(max_tokens),
        seed=seed,
    )


def scored_replies(
    sampler: Sampler, objectives: Sequence[ObjectiveConfig], condition: Condition, advance: Advance
) -> Scored:
    """Sample what is missing under a condition, and score all of it.

    Raises:
        RunDirError: the sampler's folder holds replies made with other settings.
        RewardError: an objective's reward cannot be had here.
    """
    rewards = {objective.name: _cached_reward(objective.reward) for objective in objectives}
    replies = sampler.replies(condition, advance)
    texts = {prompt.prompt_id: prompt.text for prompt in sampler.prompts}
    shape = (len(sampler.prompts), condition.samples)
    return Scored(
        replies=replies,
        kl_nats=np.reshape([reply.kl_nats for reply in replies], shape),
        rewards={name: _measured(reward, replies, texts, shape) for name, reward in rewards.items()},
    )


def _measured(
    reward: Reward, replies: Sequence[Rollout], texts: dict[str, str], shape: tuple[int, int]
) -> NDArray[np.float64]:
    scores = reward([texts[reply.prompt_id] for reply in replies], [reply.text for reply in replies])
    return np.reshape(np.asarray(scores, dtype=float), shape)
