"""The stage that looks at candidates: what every reward makes of a text with one more token, sampled or not.

A sampled reply tells what one token a position led to. Where a reward can be had of any text, what each of the others
would do to the text so far is known without sampling it; `critic.foreseen_values` makes of that what it is worth at the
end of a reply. An all-action estimate of a policy's gradient (arXiv 1709.00503), with the rewards themselves in it.

    lookahead_<n>.safetensors, of shard n of a round's replies: the columns of `picked`, and

        rewards    [labels, m, objectives] float64   of the text with the candidate, in their own units
        ends       [labels, m] bool                  whether the candidate ends the reply: then they are the reply's

Runs in its own process, started by `training.rounds`. Imports torch, never vllm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.fast.picked import pick_of_reply, picked_path, read_picked
from training.fast.positions import PositionData, ordered, read_recorded
from training.fast.replies import ReplyShard, all_prompts, reply_names, reply_shards
from training.fast.reply_rewards import scores
from training.fast.run import FastRun
from training.fit.targets import standardise
from training.rewards.reward import Reward, load_reward
from training.rollouts.shards import Rollout, read_shard
from training.runs.base import end_tokens
from training.runs.progress import progress
from training.runs.run_dir import replacing


@dataclass(frozen=True, slots=True)
class Lookahead:
    """Texts with one more token.

    Attributes:
        position: [labels] index into the `PositionData`.
        candidates, weights, ends: [labels, m], see above.
        rewards: [labels, m, objectives] float32, standardised.
    """

    position: Tensor
    candidates: Tensor
    weights: Tensor
    rewards: Tensor
    ends: Tensor

    def __len__(self) -> int:
        return self.position.shape[0]


def look_ahead(run: FastRun) -> dict[str, Any]:
    """Score candidates of a round's replies to training prompts, shard by shard; what an earlier run finished stays."""
    from transformers import AutoTokenizer

    run.finished("replies")
    tokenizer = AutoTokenizer.from_pretrained(run.base_folder, trust_remote_code=False)
    texts = {prompt.prompt_id: prompt.text for prompt in all_prompts(run)}
    rewards = {name: load_reward(identifier) for name, identifier in run.rewards.items()}
    looker = _Looker(run, tokenizer, end_tokens(run.base_folder, tokenizer), texts, rewards)
    shards = reply_shards(run)
    candidates = 0
    with progress(f"lookahead, round {run.iteration}", len(shards)) as advance:
        for shard in shards:
            path = picked_path(run, "lookahead", shard)
            if not path.is_file() and (found := looker.looked(shard)):
                with replacing(path) as partial:
                    save_file(found, partial)
            candidates += load_file(path)["candidates"].numel() if path.is_file() else 0
            advance(1)
    return {"candidates": candidates}


def load_lookahead(run: FastRun, data: PositionData, means: Tensor, stds: Tensor) -> Lookahead:
    """All that a round's candidates were scored.

    Args:
        data: of the round.
        means, stds: [objectives] of the base's reward.

    Raises:
        RunDirError: it is not all there yet.
    """
    parts = []
    for position, stored in read_picked(run, "lookahead", data):
        scored = standardise(stored["rewards"], means, stds, run.recipe.fit.clip).float()
        parts.append((position, stored["candidates"], stored["weights"], scored, stored["ends"]))
    return Lookahead(*(torch.cat(column) for column in zip(*parts, strict=True)))


def join_lookahead(parts: Sequence[Lookahead], sizes: Sequence[int]) -> Lookahead:
    """Those of several rounds, whose positions are joined too.

    Args:
        sizes: how many positions each round has.
    """
    starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
    moved = [replace(part, position=part.position + start) for part, start in zip(parts, starts, strict=False)]
    return Lookahead(*(torch.cat([getattr(part, name) for part in moved]) for name in Lookahead.__slots__))


@dataclass(frozen=True)
class _Looker:
    """Scores the candidates of shards.

    Attributes:
        ends: tokens that end a reply; texts: of prompts, by their ids.
    """

    run: FastRun
    tokenizer: Any
    ends: list[int]
    texts: Mapping[str, str]
    rewards: Mapping[str, Reward]

    def looked(self, shard: ReplyShard) -> dict[str, Tensor]:
        """What is stored of a shard; nothing where none of its replies is to a training prompt."""
        replies = list(read_shard(shard.path))
        columns, kept = ordered(read_recorded(shard.positions), replies, reply_names(self.run, shard.prompts))
        parts, prompts, written = [], [], []
        for number, index in enumerate(kept):
            if replies[index].split == "train":
                rows = (columns["reply"] == number).nonzero().flatten()
                picked, texts = self._picked(replies[index], columns["token_ids"][rows], columns["base_logprobs"][rows])
                parts.append({"reply": torch.full_like(picked["place"], index), **picked})
                prompts += [self.texts[replies[index].prompt_id]] * len(texts)
                written += texts
        if not parts:
            return {}
        found = {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}
        return {**found, "rewards": scores(self.rewards, prompts, written).reshape(*found["ends"].shape, -1)}

    def _picked(self, reply: Rollout, token_ids: Tensor, base_logprobs: Tensor) -> tuple[dict[str, Tensor], list[str]]:
        """The candidates that are looked at, and the texts with them, one after another."""
        recipe = self.run.recipe.fast.lookahead
        assert recipe is not None, "a recipe without a look ahead has no such stage"
        picked = pick_of_reply(reply, base_logprobs, recipe)
        tokens = token_ids[picked["place"]].long().gather(1, picked["candidates"])
        texts = [
            self.tokenizer.decode([*reply.output_token_ids[:place], token], skip_special_tokens=True)
            for place, row in zip(picked["place"].tolist(), tokens.tolist(), strict=True)
            for token in row
        ]
        return {**picked, "ends": torch.isin(tokens, torch.tensor(self.ends))}, texts
