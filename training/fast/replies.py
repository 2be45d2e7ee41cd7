"""The stage that samples replies through the fast guide and records what it saw; see `valuemodels.guide.recorder`.

Round 0 samples from the base: the guide holds a blank probe and only watches. A later round is tilted by the probe that
the round before it made. Runs in its own process, started by `training.rounds`, with the engine in it.
"""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from training.fast.checkpoint import write_blank
from training.fast.run import FastRun
from training.prompts.chat import ChatPrompt, read_prompt_set
from training.prompts.stage import PROMPTS_FILE
from training.rollouts.engine import Limits, Reply, RolloutEngine
from training.rollouts.requests import Request, requests_to_sample
from training.rollouts.shards import parts_of, read_rollouts, shard_path, write_shard
from training.rollouts.weights import draw_weights
from training.rollouts.workers import carry_out_shards
from training.runs.run import VALUES_FOLDER
from valuemodels.contract.guidance import Guidance
from valuemodels.contract.guide_config import GuideConfig


@dataclass(frozen=True, slots=True)
class ReplyShard:
    """Prompts whose replies are sampled together.

    Attributes:
        path: of the replies, written last; positions: folder of what was recorded of them.
    """

    path: Path
    positions: Path
    prompts: Sequence[ChatPrompt]

    @property
    def is_done(self) -> bool:
        return self.path.is_file() and self.positions.is_dir()


def sample_replies(run: FastRun) -> dict[str, Any]:
    """Sample and record, shard by shard; shards that an earlier run finished stay."""
    shards = reply_shards(run)
    if run.iteration == 0 and not all(shard.is_done for shard in shards):
        write_blank(run, _blank_folder(run))
    pace = carry_out_shards(ReplyShards(run), run.workers)
    costs = [reply.kl_nats for reply in read_rollouts(run.stage("replies").folder)]
    return {
        "replies": sum(len(reply_requests(run, shard.prompts)) for shard in shards),
        "tokens_per_s": pace.tokens_per_s,
        "kl_nats": round(fmean(costs), 2),
    }


@dataclass
class ReplyShards:
    """The replies to so many prompts each, with what was recorded of them."""

    run: FastRun

    @property
    def description(self) -> str:
        """Of which round they are."""
        return f"replies, round {self.run.iteration}"

    def sizes(self) -> list[int]:
        """Replies of each shard."""
        return [len(reply_requests(self.run, shard.prompts)) for shard in self._shards]

    def is_done(self, index: int) -> bool:
        """Whether its replies are there."""
        return self._shards[index].is_done

    def prepare(self) -> None:
        """Start the engine."""
        _ = self._engine

    def carry_out(self, index: int) -> int:
        """Sample a shard. Returns how many tokens its replies have."""
        replies = _sample_shard(self._engine, self.run, self._shards[index])
        return sum(len(reply.token_ids) for reply in replies)

    @cached_property
    def _shards(self) -> list[ReplyShard]:
        return reply_shards(self.run)

    @cached_property
    def _engine(self) -> RolloutEngine:
        return RolloutEngine(self.run.base_folder, self.run.recipe.engine, _guide(self.run))


def reply_shards(run: FastRun) -> list[ReplyShard]:
    """What is sampled together. Validation prompts get replies of the base alone, test prompts none."""
    wanted = ("train", "validation") if run.iteration == 0 else ("train",)
    chosen = [prompt for prompt in all_prompts(run) if prompt.split in wanted]
    folder = run.stage("replies").folder
    return [
        ReplyShard(shard_path(folder, index), folder / f"positions_{index:04d}", part)
        for index, part in enumerate(parts_of(chosen, run.recipe.fast.shard_prompts))
    ]


def all_prompts(run: FastRun) -> list[ChatPrompt]:
    """The recipe's prompts, and those that the base invented."""
    first = run.at(0)
    folders = (first.finished("prompts"), first.finished("invented"))
    return [prompt for folder in folders for prompt in read_prompt_set(folder / PROMPTS_FILE)]


def reply_requests(run: FastRun, prompts: Sequence[ChatPrompt]) -> list[Request]:
    """The requests for the replies to some prompts."""
    fast = run.recipe.fast

    def samples(prompt: ChatPrompt) -> int:
        if run.iteration:
            return fast.rounds[run.iteration - 1]
        return fast.samples if prompt.split == "train" else fast.held_out_samples

    def guidance(prompt: ChatPrompt, sample: int) -> Guidance:
        weights = reply_weights(run, prompt.prompt_id, sample)
        # Nothing tilts the base's replies: that their trace is asked for is what has them recorded.
        return Guidance("", weights=weights, scoring="fast", trace="totals" if weights else "values")

    # Other replies than those that a teacher was trained on: there its values may be better than elsewhere.
    return requests_to_sample(prompts, samples, run.recipe.seed, guidance, seeds=f"fast-{run.iteration}-")


def reply_names(run: FastRun, prompts: Sequence[ChatPrompt]) -> list[str]:
    """Generation ids of the replies to some prompts, in their order."""
    return [request.guidance.generation_id for request in reply_requests(run, prompts) if request.guidance]


def reply_weights(run: FastRun, prompt_id: str, sample: int) -> dict[str, float]:
    """The weights that tilt a reply; none for a reply of the base."""
    if run.iteration == 0:
        return {}
    dice = random.Random(f"{run.recipe.seed}:{run.iteration}:{prompt_id}:{sample}")
    return draw_weights(list(run.rewards), run.recipe.fast.tilts, dice)


def _sample_shard(engine: RolloutEngine, run: FastRun, shard: ReplyShard) -> list[Reply]:
    partial = shard.positions.with_name(f"{shard.positions.name}.partial")
    for leftover in (partial, shard.positions):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    limits = Limits(run.recipe.rollout.max_tokens, run.recipe.rollout.temperature)
    engine.record(partial)
    replies = engine.sample(reply_requests(run, shard.prompts), limits)
    engine.record(None)
    partial.rename(shard.positions)
    write_shard(shard.path, shard.prompts, replies)
    return replies


def _blank_folder(run: FastRun) -> Path:
    return run.stage("replies").folder / VALUES_FOLDER


def _guide(run: FastRun) -> GuideConfig:
    earlier = run.at(run.iteration - 1)
    folder = earlier.finished("probe") / VALUES_FOLDER if run.iteration else _blank_folder(run)
    candidates = run.recipe.calibrate.candidates
    return GuideConfig(
        checkpoints=(str(folder),),
        base_model=run.base_folder,
        default_candidates=candidates,
        max_candidates=candidates,
        scorings=("fast",),
    )
