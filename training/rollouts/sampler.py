"""Replies of one setting, sampled once and kept: a comparison that takes hours goes on where it was.

    <folder>/<arm>/inputs.json           what the replies depend on
    <folder>/<arm>/shard_0000.parquet    the replies to so many prompts, all samples of each

Runs in the process of a measuring command, with the engine in it. Must not import torch or vllm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.progress import Advance
from training.prompt_set import ChatPrompt
from training.rollout import Limits, Request, RolloutEngine, request_seed
from training.run_dir import Stage
from training.shards import Rollout, read_rollouts, shard_path, write_shard
from valuemodels.contract.guidance import Guidance

SHARD_PROMPTS = 8


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of sampling.

    Attributes:
        name: of its folder.
        guidance: None samples from the base; its `generation_id` is replaced, one a reply.
        samples: replies a prompt.
    """

    name: str
    guidance: Guidance | None
    samples: int


@dataclass(frozen=True, slots=True)
class Sampler:
    """Samples arms with seeds that depend on prompt and sample alone, so that arms are paired.

    Attributes:
        engine: made when the first reply is missing.
        subject: names the checkpoint and base, for `inputs.json`.
    """

    folder: Path
    engine: Callable[[], RolloutEngine]
    subject: str
    prompts: Sequence[ChatPrompt]
    limits: Limits
    seed: int

    def replies(self, arm: Arm, advance: Advance) -> list[Rollout]:
        """All replies of an arm, prompt by prompt, sampled first where they are missing.

        Raises:
            RunDirError: the folder holds replies made with other settings.
        """
        stage = Stage(self.folder / arm.name, self._inputs(arm))
        folder = stage.start()
        for index, part in enumerate(self._parts()):
            path = shard_path(folder, index)
            if not path.is_file():
                write_shard(path, part, self.engine().sample(self._requests(arm, part), self.limits))
            advance(len(part) * arm.samples, arm.name)
        return read_rollouts(folder)

    def _parts(self) -> list[Sequence[ChatPrompt]]:
        return [self.prompts[at : at + SHARD_PROMPTS] for at in range(0, len(self.prompts), SHARD_PROMPTS)]

    def _requests(self, arm: Arm, prompts: Sequence[ChatPrompt]) -> list[Request]:
        return [
            Request(
                prompt_id=prompt.prompt_id,
                prompt_token_ids=prompt.token_ids,
                sample=sample,
                seed=request_seed(self.seed, prompt.prompt_id, sample),
                guidance=arm.guidance
                and replace(arm.guidance, generation_id=f"{arm.name}-{prompt.prompt_id}-{sample}"),
            )
            for prompt in prompts
            for sample in range(arm.samples)
        ]

    def _inputs(self, arm: Arm) -> dict[str, object]:
        return {
            "subject": self.subject,
            "prompts": [prompt.prompt_id for prompt in self.prompts],
            "samples": arm.samples,
            "seed": self.seed,
            "max_tokens": self.limits.max_tokens,
            "temperature": self.limits.temperature,
            "guidance": None if arm.guidance is None else arm.guidance.to_wire(),
        }
