"""The stage that samples replies to a run's prompts.

Runs in its own process, started by `training.rounds`, with the engine in it. Must not import torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from training.prompts.chat import ChatPrompt, read_prompt_set
from training.prompts.stage import PROMPTS_FILE
from training.rollouts.engine import Limits, RolloutEngine
from training.rollouts.shards import parts_of, read_rollouts, shard_path, write_shard
from training.rollouts.tree import sample_trees, sampled_tokens
from training.rollouts.weights import tree_weights
from training.rollouts.workers import carry_out_shards
from training.runs.fitted import FittedValues
from training.runs.run import Run
from valuemodels.contract.guidance import Guidance
from valuemodels.contract.guide_config import GuideConfig


def sample_rollouts(run: Run) -> dict[str, Any]:
    """Sample replies to every prompt, shard by shard; shards that an earlier run finished stay."""
    pace = carry_out_shards(RolloutShards(run), run.workers)
    return {"replies": len(read_rollouts(run.stage("rollouts").folder)), "tokens_per_s": pace.tokens_per_s}


@dataclass
class RolloutShards:
    """The replies to so many prompts each."""

    run: Run
    description: str = "rollouts"

    def sizes(self) -> list[int]:
        """Prompts of each shard."""
        return [len(part) for part in self._parts]

    def is_done(self, index: int) -> bool:
        """Whether its replies are there."""
        return self._path(index).is_file()

    def prepare(self) -> None:
        """Start the engine."""
        _ = self._loaded

    def carry_out(self, index: int) -> int:
        """Sample the replies to a shard's prompts. Returns how many tokens they have."""
        run, part = self.run, self._parts[index]
        policy, engine = self._loaded
        replies = sample_trees(
            engine,
            part,
            partial(_children, run),
            Limits(run.recipe.rollout.max_tokens, run.recipe.rollout.temperature),
            run.recipe.seed,
            None if policy is None else partial(_guidance, run, policy),
            seeds=f"round-{run.iteration}-" if run.iteration else "",
        )
        write_shard(self._path(index), part, replies)
        return sampled_tokens(replies)

    def _path(self, index: int) -> Path:
        return shard_path(self.run.stage("rollouts").folder, index)

    @cached_property
    def _parts(self) -> list[Sequence[ChatPrompt]]:
        prompts = read_prompt_set(self.run.at(0).finished("prompts") / PROMPTS_FILE)
        return parts_of(prompts, self.run.recipe.rollout.shard_prompts)

    @cached_property
    def _loaded(self) -> tuple[FittedValues | None, RolloutEngine]:
        policy = _policy(self.run)
        return policy, RolloutEngine(self.run.base_folder, self.run.recipe.engine, _guide(self.run, policy))


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
