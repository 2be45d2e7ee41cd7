"""Replies under one condition, sampled once and kept: a comparison that takes hours goes on where it was.

    <folder>/<condition>/inputs.json           what the replies depend on
    <folder>/<condition>/shard_0000.parquet    the replies to so many prompts, all samples of each
    <folder>/<condition>/timing_0000.json      tokens, and the seconds they took

Runs in the process of a measuring command, with the engine in it. Must not import torch or vllm.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from training.prompts.chat import ChatPrompt
from training.rollouts.engine import Limits, Reply
from training.rollouts.requests import Request, requests_to_sample
from training.rollouts.shards import Rollout, parts_of, read_rollouts, shard_path, write_shard
from training.runs.progress import Advance
from training.runs.run_dir import Stage, read_json, write_json
from valuemodels.contract.guidance import Guidance

SHARD_REPLIES = 256
"""Sampled at once: enough to fill a batch, few enough to lose in an interruption."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One way of sampling.

    Attributes:
        name: of its folder.
        guidance: None samples from the base; its `generation_id` is replaced, one a reply.
        samples: replies a prompt.
    """

    name: str
    guidance: Guidance | None
    samples: int


class ReplySource(Protocol):
    """What replies come from: `RolloutEngine`, or what stands where it does."""

    def sample(self, requests: Sequence[Request], limits: Limits) -> list[Reply]:
        """One reply a request, in their order; equal requests with equal seeds give equal replies."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """Samples conditions with seeds that depend on prompt and sample alone, so that their replies are paired.

    Attributes:
        engine: made when the first reply is missing.
        sampled_from: names checkpoint and base, for `inputs.json`.
    """

    folder: Path
    engine: Callable[[], ReplySource]
    sampled_from: Mapping[str, Any]
    prompts: Sequence[ChatPrompt]
    limits: Limits
    seed: int

    def replies(self, condition: Condition, advance: Advance) -> list[Rollout]:
        """All replies under a condition, prompt by prompt, sampled first where they are missing.

        Raises:
            RunDirError: the folder holds replies made with other settings.
        """
        stage = Stage(self.folder / condition.name, self._inputs(condition))
        folder = stage.start()
        shard_prompts = max(1, SHARD_REPLIES // condition.samples)
        for index, part in enumerate(parts_of(self.prompts, shard_prompts)):
            path = shard_path(folder, index)
            if not path.is_file():
                requests = requests_to_sample(
                    part, condition.samples, self.seed, condition.guidance, label=condition.name
                )
                _sample_shard(self.engine(), requests, self.limits, path, part)
            advance(len(part) * condition.samples, condition.name)
        return read_rollouts(folder)

    @property
    def texts(self) -> dict[str, str]:
        """Prompt id -> the prompt."""
        return {prompt.prompt_id: prompt.text for prompt in self.prompts}

    def tokens_per_s(self, condition: Condition) -> float:
        """How fast the replies under a condition were sampled, all shards together; 0 where there are none."""
        timings = [read_json(path) for path in sorted((self.folder / condition.name).glob("timing_*.json"))]
        seconds = sum(timing["seconds"] for timing in timings)
        return sum(timing["tokens"] for timing in timings) / seconds if seconds else 0.0

    def _inputs(self, condition: Condition) -> dict[str, object]:
        return {
            **self.sampled_from,
            "prompts": [prompt.prompt_id for prompt in self.prompts],
            "samples": condition.samples,
            "seed": self.seed,
            "max_tokens": self.limits.max_tokens,
            "temperature": self.limits.temperature,
            "guidance": None if condition.guidance is None else condition.guidance.to_wire(),
            **{name: value for name in ("read_top", "top_k") if (value := getattr(self.limits, name)) is not None},
        }


def _sample_shard(
    engine: ReplySource, requests: Sequence[Request], limits: Limits, path: Path, prompts: Sequence[ChatPrompt]
) -> None:
    started = time.perf_counter()
    replies = engine.sample(requests, limits)
    seconds = time.perf_counter() - started
    timing = {"tokens": sum(len(reply.token_ids) for reply in replies), "seconds": seconds}
    write_json(path.with_name(path.name.replace("shard", "timing")).with_suffix(".json"), timing)
    write_shard(path, prompts, replies)
