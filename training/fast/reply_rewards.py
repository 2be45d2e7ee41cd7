"""The stage that scores the replies of a round and their prefixes: every objective's reward, shard by shard.

    rewards_<n>.safetensors
        final     [replies, objectives] float64   rewards of the whole replies, in their own units
        prefixes  [tokens, objectives] float64    at every token of every reply, the reward of the text before it

Runs in its own process, started by `training.rounds`. Imports torch, never vllm.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.errors import RewardError
from training.fast.replies import ReplyShard, all_prompts, reply_shards
from training.fast.run import FastRun
from training.rewards.reward import Reward, checked_scores, load_reward
from training.rollouts.shards import Rollout, read_shard
from training.runs.progress import progress
from training.runs.run_dir import replacing


def score_replies(run: FastRun) -> dict[str, Any]:
    """Score every shard that is not scored yet; round 0 also says what the base's rewards are."""
    from transformers import AutoTokenizer

    run.finished("replies")
    tokenizer = AutoTokenizer.from_pretrained(run.base_folder, trust_remote_code=False)
    rewards = {name: load_reward(identifier) for name, identifier in run.rewards.items()}
    texts = {prompt.prompt_id: prompt.text for prompt in all_prompts(run)}
    every = run.recipe.fast.critic.prefix_every
    shards = reply_shards(run)
    with progress(f"reply_rewards, round {run.iteration}", len(shards)) as advance:
        for shard in shards:
            path = rewards_path(run, shard)
            if not path.is_file():
                scored = score_shard(list(read_shard(shard.path)), texts, rewards, tokenizer, every)
                with replacing(path) as partial:
                    save_file(scored, partial)
            advance(1)
    return {"base": _base_rewards(run, shards)} if run.iteration == 0 else {}


def rewards_path(run: FastRun, shard: ReplyShard) -> Path:
    """Where a shard's rewards lie."""
    return run.stage("reply_rewards").folder / f"{shard.path.stem.replace('shard', 'rewards')}.safetensors"


def read_shard_rewards(run: FastRun, shard: ReplyShard) -> tuple[Tensor, Tensor]:
    """`final` and `prefixes` of a shard."""
    tensors = load_file(rewards_path(run, shard))
    return tensors["final"], tensors["prefixes"]


def score_shard(
    replies: Sequence[Rollout], texts: Mapping[str, str], rewards: Mapping[str, Reward], tokenizer: Any, every: int
) -> dict[str, Tensor]:
    """`final` and `prefixes` of some replies, whose prefixes are scored at every so many tokens."""
    prompts = [texts[reply.prompt_id] for reply in replies]
    cut = [range(0, len(reply.output_token_ids), every) for reply in replies]
    prefixes = [
        tokenizer.decode(reply.output_token_ids[:length], skip_special_tokens=True)
        for reply, lengths in zip(replies, cut, strict=True)
        for length in lengths
    ]
    of_prefix = [prompt for prompt, lengths in zip(prompts, cut, strict=True) for _ in lengths]
    whole = [reply.text for reply in replies]
    scored = scores(rewards, prompts + of_prefix, whole + prefixes)
    # Between two scored prefixes the earlier one's reward holds.
    repeats = [
        min(every, len(reply.output_token_ids) - length)
        for reply, lengths in zip(replies, cut, strict=True)
        for length in lengths
    ]
    held = scored[len(replies) :].repeat_interleave(torch.tensor(repeats), dim=0)
    return {"final": scored[: len(replies)].contiguous(), "prefixes": held}


def scores(rewards: Mapping[str, Reward], prompts: Sequence[str], texts: Sequence[str]) -> Tensor:
    """[texts, objectives] float64, every objective's reward of every text."""
    columns = [checked_scores(name, reward, prompts, texts) for name, reward in rewards.items()]
    return torch.tensor(columns, dtype=torch.float64).T.contiguous()


def _base_rewards(run: FastRun, shards: Sequence[ReplyShard]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of the base's reward on training prompts.

    Raises:
        RewardError: an objective's reward is the same for every reply.
    """
    finals = []
    for shard in shards:
        trained_on = torch.tensor([reply.split == "train" for reply in read_shard(shard.path)])
        finals.append(read_shard_rewards(run, shard)[0][trained_on])
    final = torch.cat(finals)
    for place, name in enumerate(run.rewards):
        if len(final) > 1 and bool((final[:, place] == final[0, place]).all()):
            raise RewardError(
                f"reward {name!r} scored all {len(final)} replies {float(final[0, place])}; nothing to learn from"
            )
    return {
        name: {"mean": float(final[:, place].mean()), "std": float(final[:, place].std())}
        for place, name in enumerate(run.rewards)
    }
