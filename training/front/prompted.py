"""Asking the base for a mix, instead of tilting it. Runs in the command's process, with the engine in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from training.evaluate.mix import Mix
from training.front.methods import Setting, silent
from training.prompts.chat import ChatPrompt
from training.rollouts.measured import Measured, measured
from training.rollouts.sampler import Condition, Sampler
from training.rollouts.scored import scored_replies
from training.rollouts.shards import Rollout
from training.runs.run_dir import read_json, write_json

LOGPROBS_FILE = "base_logprobs.json"
_READ_AT_ONCE = 128


@dataclass(frozen=True)
class Prompted:
    """The base, asked for it: a sentence for each objective of the mix, the weightiest first, after the prompt.

    Attributes:
        instructions: objective -> its sentence.
        render: token ids of a chat with this user message.
    """

    setting: Setting
    instructions: Mapping[str, str]
    render: Callable[[str], tuple[int, ...]]
    name: str = "prompted"

    def passes(self, mix: Mix) -> float:
        return 1.0

    def at(self, mix: Mix) -> Measured:
        asked = self.asked(mix)
        sampler = replace(self.setting.sampler, prompts=asked, sampled_from=self._sampled_from(asked))
        condition = Condition(f"prompted_{mix.folder_name}_x{self.setting.samples}", None, self.setting.samples)
        scored = scored_replies(sampler, self.setting.rewards, condition, silent)
        plain = np.reshape(self._read(sampler, condition, scored.replies), scored.kl_nats.shape)
        own = np.reshape([reply.base_logprob for reply in scored.replies], plain.shape)
        return measured(scored, sampler.tokens_per_s(condition), own - plain, plain)

    def instruction(self, mix: Mix) -> str:
        """What the mix is asked for by."""
        by_share = sorted(((share, name) for name, share in mix.shares.items() if share), reverse=True)
        return " ".join(f"{_emphasis(share)}{self.instructions[name]}" for share, name in by_share)

    def asked(self, mix: Mix) -> list[ChatPrompt]:
        """The prompts with it."""
        instruction = self.instruction(mix)
        return [
            replace(prompt, token_ids=self.render(f"{prompt.text}\n\n{instruction}"))
            for prompt in self.setting.sampler.prompts
        ]

    def _sampled_from(self, asked: Sequence[ChatPrompt]) -> dict[str, object]:
        return {**self.setting.sampler.sampled_from, "asked": [list(prompt.token_ids) for prompt in asked]}

    def _read(self, sampler: Sampler, condition: Condition, replies: Sequence[Rollout]) -> list[float]:
        """What the base makes of them without having been asked."""
        path = sampler.folder / condition.name / LOGPROBS_FILE
        if path.is_file():
            found: list[float] = read_json(path)
            return found
        found = []
        for start in range(0, len(replies), _READ_AT_ONCE):
            part = replies[start : start + _READ_AT_ONCE]
            texts = [(self._plain[reply.prompt_id], reply.output_token_ids) for reply in part]
            found += self.setting.engine().base_logprobs(texts)
        write_json(path, found)
        return found

    @cached_property
    def _plain(self) -> dict[str, tuple[int, ...]]:
        return {prompt.prompt_id: prompt.token_ids for prompt in self.setting.sampler.prompts}


def _emphasis(share: float) -> str:
    """How much a share of a mix is insisted on."""
    if share > 0.75:
        return "Above all: "
    return "" if share > 0.25 else "A little: "
