"""The stages that make the data: prompts, and replies to them.

Each runs in its own process, started by `training.stages`. Must not import torch.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from training.progress import progress
from training.prompt_set import ChatPrompt, chat_prompts, read_prompt_set, write_prompt_set
from training.prompts.files import Fractions, load_prompts
from training.rollout import Limits, Request, RolloutEngine, request_seed
from training.run import Run
from training.shards import shard_path, write_shard
from valuemodels.contract.guidance import Guidance
from valuemodels.contract.guide_config import GuideConfig

PROMPTS_FILE = "prompts.jsonl"


def prepare_prompts(run: Run) -> dict[str, Any]:
    """Read, split and render the recipe's prompts."""
    from transformers import AutoTokenizer

    recipe = run.recipe
    tokenizer = AutoTokenizer.from_pretrained(run.base_folder, trust_remote_code=False)
    fractions = Fractions(**recipe.split.model_dump())
    prompts = chat_prompts(tokenizer, load_prompts(recipe.prompts_path), fractions, recipe.limit)
    write_prompt_set(run.stage("prompts").folder / PROMPTS_FILE, prompts)
    return {"prompts": dict(Counter(prompt.split for prompt in prompts))}


def sample_rollouts(run: Run, guide: GuideConfig | None = None, guidance: Guidance | None = None) -> dict[str, Any]:
    """Sample replies to every prompt, shard by shard; shards that an earlier run finished stay.

    Args:
        guide, guidance: None samples from the base; a later iteration samples through the guide that serves.
    """
    recipe, folder = run.recipe, run.stage("rollouts").folder
    prompts = read_prompt_set(run.finished("prompts") / PROMPTS_FILE)
    shards = list(enumerate(_parts(prompts, recipe.rollout.shard_prompts)))
    missing = [(index, part) for index, part in shards if not shard_path(folder, index).is_file()]
    total = sum(_samples(run, prompt) for prompt in prompts)
    done = total - sum(_samples(run, prompt) for _, part in missing for prompt in part)
    tokens, seconds = 0, 0.0
    if missing:
        engine = RolloutEngine(run.base_folder, recipe.engine, guide)
        limits = Limits(recipe.rollout.max_tokens, recipe.rollout.temperature)
        with progress("rollouts", total, done) as advance:
            for index, part in missing:
                started = time.monotonic()
                replies = engine.sample(_requests(run, part, guidance), limits)
                write_shard(shard_path(folder, index), part, replies)
                tokens += sum(len(reply.token_ids) for reply in replies)
                seconds += time.monotonic() - started
                advance(len(replies), f"{tokens / seconds:.0f} tok/s")
    return {"replies": total, "tokens_per_s": round(tokens / seconds, 1) if seconds else None}


def _parts(prompts: Sequence[ChatPrompt], size: int) -> list[Sequence[ChatPrompt]]:
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def _samples(run: Run, prompt: ChatPrompt) -> int:
    rollout = run.recipe.rollout
    return rollout.samples if prompt.split == "train" else rollout.held_out_samples


def _requests(run: Run, prompts: Sequence[ChatPrompt], guidance: Guidance | None) -> list[Request]:
    return [
        Request(
            prompt_id=prompt.prompt_id,
            prompt_token_ids=prompt.token_ids,
            sample=sample,
            seed=request_seed(run.recipe.seed, prompt.prompt_id, sample),
            guidance=guidance and replace(guidance, generation_id=f"{prompt.prompt_id}-{sample}"),
        )
        for prompt in prompts
        for sample in range(_samples(run, prompt))
    ]
