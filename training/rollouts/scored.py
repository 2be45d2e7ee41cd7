"""Replies under one condition in figures: their KL, and every objective's reward.

Runs in the process that samples. Must not import torch or vllm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from training.rewards.reward import Reward, load_reward
from training.rollouts.sampler import Condition, Sampler
from training.rollouts.shards import Rollout
from training.runs.progress import Advance

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


def scored_replies(sampler: Sampler, rewards: Mapping[str, str], condition: Condition, advance: Advance) -> Scored:
    """Sample what is missing under a condition, and score all of it.

    Args:
        rewards: objective -> id of its reward.

    Raises:
        RunDirError: the sampler's folder holds replies made with other settings.
        RewardError: an objective's reward cannot be had here.
    """
    loaded = {name: _cached_reward(identifier) for name, identifier in rewards.items()}
    replies = sampler.replies(condition, advance)
    shape = (len(sampler.prompts), condition.samples)
    return Scored(
        replies=replies,
        kl_nats=np.reshape([reply.kl_nats for reply in replies], shape),
        rewards={name: _measured(reward, replies, sampler.texts, shape) for name, reward in loaded.items()},
    )


def _measured(
    reward: Reward, replies: Sequence[Rollout], texts: dict[str, str], shape: tuple[int, int]
) -> NDArray[np.float64]:
    scores = reward([texts[reply.prompt_id] for reply in replies], [reply.text for reply in replies])
    return np.reshape(np.asarray(scores, dtype=float), shape)
