"""The stage that samples replies to a run's prompts.

Runs in its own process, started by `training.rounds`, with the engine in it. Must not import torch.
"""

import time
from functools import partial
from typing import Any

from training.prompts.chat import ChatPrompt, read_prompt_set
from training.prompts.stage import PROMPTS_FILE
from training.rollouts.engine import Limits, RolloutEngine
from training.rollouts.shards import parts_of, read_rollouts, shard_path, write_shard
from training.rollouts.tree import sample_trees, sampled_tokens
from training.rollouts.weights import tree_weights
from training.runs.fitted import FittedValues
from training.runs.progress import progress
from training.runs.run import Run
from valuemodels.contract.guidance import Guidance
from valuemodels.contract.guide_config import GuideConfig


def sample_rollouts(run: Run) -> dict[str, Any]:
    """Sample replies to every prompt, shard by shard; shards that an earlier run finished stay."""
    recipe, folder = run.recipe, run.stage("rollouts").folder
    prompts = read_prompt_set(run.at(0).finished("prompts") / PROMPTS_FILE)
    shards = list(enumerate(parts_of(prompts, recipe.rollout.shard_prompts)))
    missing = [(index, part) for index, part in shards if not shard_path(folder, index).is_file()]
    tokens, seconds = 0, 0.0
    if missing:
        policy = _policy(run)
        engine = RolloutEngine(run.base_folder, recipe.engine, _guide(run, policy))
        limits = Limits(recipe.rollout.max_tokens, recipe.rollout.temperature)
        with progress("rollouts", len(prompts), len(prompts) - sum(len(part) for _, part in missing)) as advance:
            for index, part in missing:
                started = time.monotonic()
                replies = sample_trees(
                    engine,
                    part,
                    partial(_children, run),
                    limits,
                    recipe.seed,
                    None if policy is None else partial(_guidance, run, policy),
                    seeds=f"round-{run.iteration}-" if run.iteration else "",
                )
                write_shard(shard_path(folder, index), part, replies)
                tokens += sampled_tokens(replies)
                seconds += time.monotonic() - started
                advance(len(part), f"{tokens / seconds:.0f} tok/s")
    return {"replies": len(read_rollouts(folder)), "tokens_per_s": round(tokens / seconds, 1) if seconds else None}


def _policy(run: Run) -> FittedValues | None:
    """What tilts the replies: the best values before this round's; None: they are the base's."""
    return run.at(run.iteration - 1).best.fitted() if run.iteration else None


def _guide(run: Run, policy: FittedValues | None) -> GuideConfig | None:
    if policy is None:
        return None
    return GuideConfig(checkpoints=(str(policy.folder),), base_model=run.base_folder, scorings=(policy.scoring,))


def _guidance(run: Run, policy: FittedValues, prompt: ChatPrompt) -> Guidance:
    return policy.guidance(tree_weights(run, prompt.prompt_id), run.recipe.calibrate.candidates, "tree")


def _children(run: Run, prompt: ChatPrompt) -> tuple[int, ...]:
    return run.recipe.rollout_of(run.iteration).children(prompt.split)
