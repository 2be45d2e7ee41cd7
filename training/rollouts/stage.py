"""The stage that samples replies to a run's prompts.

Runs in its own process, started by `training.rounds`, with the engine in it. Must not import torch.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from training.prompts.chat import ChatPrompt, read_prompt_set
from training.prompts.stage import PROMPTS_FILE
from training.rollouts.engine import Limits, RolloutEngine
from training.rollouts.requests import requests_to_sample
from training.rollouts.shards import parts_of, shard_path, write_shard
from training.runs.progress import progress
from training.runs.run import Run
from valuemodels.contract.guidance import Guidance
from valuemodels.contract.guide_config import GuideConfig


def sample_rollouts(run: Run, guide: GuideConfig | None = None, guidance: Guidance | None = None) -> dict[str, Any]:
    """Sample replies to every prompt, shard by shard; shards that an earlier run finished stay.

    Args:
        guide, guidance: None samples from the base; a later iteration samples through the guide that serves.
    """
    recipe, folder = run.recipe, run.stage("rollouts").folder
    prompts = read_prompt_set(run.finished("prompts") / PROMPTS_FILE)
    shards = list(enumerate(parts_of(prompts, recipe.rollout.shard_prompts)))
    missing = [(index, part) for index, part in shards if not shard_path(folder, index).is_file()]
    total, remaining = _replies(run, prompts), sum(_replies(run, part) for _, part in missing)
    requests = partial(requests_to_sample, samples=partial(_samples, run), seed=recipe.seed, guidance=guidance)
    tokens, seconds = 0, 0.0
    if missing:
        engine = RolloutEngine(run.base_folder, recipe.engine, guide)
        limits = Limits(recipe.rollout.max_tokens, recipe.rollout.temperature)
        with progress("rollouts", total, total - remaining) as advance:
            for index, part in missing:
                started = time.monotonic()
                replies = engine.sample(requests(part), limits)
                write_shard(shard_path(folder, index), part, replies)
                tokens += sum(len(reply.token_ids) for reply in replies)
                seconds += time.monotonic() - started
                advance(len(replies), f"{tokens / seconds:.0f} tok/s")
    return {"replies": total, "tokens_per_s": round(tokens / seconds, 1) if seconds else None}


def _samples(run: Run, prompt: ChatPrompt) -> int:
    return run.recipe.rollout.of(prompt.split)


def _replies(run: Run, prompts: Sequence[ChatPrompt]) -> int:
    return sum(_samples(run, prompt) for prompt in prompts)
