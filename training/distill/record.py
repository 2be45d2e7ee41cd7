"""The stage that makes a distillation's data: replies sampled through the guide that serves, which records what it saw.

At every position of a reply it notes the base's hidden state, the candidates, and their exact values; see
`valuemodels.guide.recorder`. Runs in its own process, started by `training.rounds`, with the engine in it.
"""

import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from training.distill.run import DistillRun
from training.prompts.chat import SPLITS, ChatPrompt, SplitName, read_prompt_set
from training.prompts.stage import PROMPTS_FILE
from training.rollouts.engine import Limits, Reply, RolloutEngine
from training.rollouts.requests import Request, requests_to_sample
from training.rollouts.shards import parts_of
from training.runs.progress import progress
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.guidance import Guidance
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.models.fingerprint import tokenizer_fingerprint


@dataclass(frozen=True, slots=True)
class PositionShard:
    """Prompts of one split whose replies are recorded together.

    Attributes:
        folder: of the recorded positions; it appears when they are complete.
    """

    folder: Path
    prompts: Sequence[ChatPrompt]

    @property
    def is_done(self) -> bool:
        return self.folder.is_dir()


def record_positions(run: DistillRun) -> dict[str, Any]:
    """Sample and record, shard by shard; shards that an earlier run finished stay.

    Raises:
        CheckpointError: the checkpoint does not fit the base model.
    """
    _check_tokenizer(run)
    shards = list(position_shards(run))
    missing = [shard for shard in shards if not shard.is_done]
    total, remaining = (sum(_replies(run, shard) for shard in some) for some in (shards, missing))
    tokens, seconds, costs = 0, 0.0, list[float]()
    if missing:
        engine = RolloutEngine(run.base_folder, run.recipe.engine, _guide(run))
        with progress("positions", total, total - remaining) as advance:
            for shard in missing:
                started = time.monotonic()
                replies = _record_shard(engine, run, shard)
                tokens += sum(len(reply.token_ids) for reply in replies)
                costs += [reply.kl_nats for reply in replies if reply.kl_nats > 0]
                seconds += time.monotonic() - started
                advance(len(replies), f"{tokens / seconds:.0f} tok/s")
    return {
        "replies": total,
        "tokens_per_s": round(tokens / seconds, 1) if seconds else None,
        "tilted_kl_nats": round(fmean(costs), 2) if costs else None,
    }


def position_shards(run: DistillRun) -> Iterator[PositionShard]:
    """What is recorded together; a shard's prompts are all of one split."""
    prompts = read_prompt_set(run.finished("prompts") / PROMPTS_FILE)
    size = run.recipe.distill.shard_prompts
    for split in SPLITS:
        of_split = [prompt for prompt in prompts if prompt.split == split]
        for index, part in enumerate(parts_of(of_split, size)):
            yield PositionShard(split_folder(run, split) / f"shard_{index:04d}", part)


def split_folder(run: DistillRun, split: SplitName) -> Path:
    """Where the positions of a split lie, in one folder a shard."""
    return run.stage("positions").folder / split


def position_requests(run: DistillRun, prompts: Sequence[ChatPrompt]) -> list[Request]:
    """Every other reply to a prompt comes from the base, the others from tilts by weights of all sizes and signs."""
    return requests_to_sample(
        prompts,
        lambda prompt: _samples(run, prompt),
        run.recipe.seed,
        lambda prompt, sample: _guidance(run, prompt.prompt_id, sample),
        # Other replies than those that the teacher was trained on: there its values may be better than elsewhere.
        seeds="distill-",
    )


def _record_shard(engine: RolloutEngine, run: DistillRun, shard: PositionShard) -> list[Reply]:
    partial = shard.folder.with_name(f"{shard.folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    limits = Limits(run.recipe.rollout.max_tokens, run.recipe.rollout.temperature)
    engine.record(partial)
    replies = engine.sample(position_requests(run, shard.prompts), limits)
    engine.record(None)
    partial.rename(shard.folder)
    return replies


def _guidance(run: DistillRun, prompt_id: str, sample: int) -> Guidance:
    """Values are computed for the replies of the base, too: their trace asks for them."""
    recipe = run.recipe.distill
    dice = random.Random(f"{run.recipe.seed}:{prompt_id}")
    tilts_even_samples = dice.random() < 0.5
    is_tilted = (sample % 2 == 0) == tilts_even_samples
    dice = random.Random(f"{run.recipe.seed}:{prompt_id}:{sample}")
    weights = {name: dice.uniform(-recipe.max_weight, recipe.max_weight) for name in run.teacher.config.names}
    return Guidance(
        generation_id="",
        weights=weights if is_tilted else {},
        candidates=recipe.candidates,
        scoring="exact",
        trace="totals" if is_tilted else "values",
    )


def _guide(run: DistillRun) -> GuideConfig:
    candidates = run.recipe.distill.candidates
    return GuideConfig(
        checkpoints=(str(run.teacher.folder),),
        base_model=run.base_folder,
        default_candidates=candidates,
        max_candidates=candidates,
        scorings=("exact",),
    )


def _samples(run: DistillRun, prompt: ChatPrompt) -> int:
    return run.recipe.distill.of(prompt.split)


def _replies(run: DistillRun, shard: PositionShard) -> int:
    return sum(_samples(run, prompt) for prompt in shard.prompts)


def _check_tokenizer(run: DistillRun) -> None:
    config = run.teacher.config
    found = tokenizer_fingerprint(run.base_folder)
    if found != config.tokenizer_fingerprint:
        raise CheckpointError(
            f"value checkpoint {run.teacher.folder} was trained with the tokenizer of {config.base_model} "
            f"({config.tokenizer_fingerprint[:12]}), but {run.base_folder} has another one ({found[:12]})"
        )
