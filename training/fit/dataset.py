"""Scored rollouts as batches of similar length, padded on the right.

Runs in the fit's process. Imports torch, never vllm.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from training.fit.targets import Leaf, PathTargets, standardise, tree_targets
from training.prompts.chat import SPLITS, SplitName
from training.rollouts.scores import read_rewards
from training.rollouts.shards import Rollout, read_rollouts
from training.rollouts.weights import prices, tree_weights
from training.runs.run import Run

PAD_ID = 0


@dataclass(frozen=True, slots=True)
class Example:
    """One scored reply.

    Attributes:
        token_ids: prompt and reply.
        prompt_length: tokens of the prompt, at least 1.
        learned: of the last prompt token and every reply token.
        teaches: which objectives learn of it; None: all.
    """

    token_ids: tuple[int, ...]
    prompt_length: int
    learned: PathTargets
    teaches: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.prompt_length <= len(self.token_ids):
            raise ValueError(f"prompt_length: got {self.prompt_length}, allowed is 1 to {len(self.token_ids)}")
        if len(self.learned.targets) != (positions := len(self.token_ids) - self.prompt_length + 1):
            raise ValueError(f"learned: got {len(self.learned.targets)} targets, allowed are {positions}")


class Batch(TypedDict):
    """Tensors of one batch.

    input_ids: [batch, tokens]; attention_mask: [batch, tokens], 1 = a real token; targets: [batch, tokens, objectives];
    loss_mask: [batch, tokens, objectives], True = carries a loss.
    """

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor
    loss_mask: Tensor


class BatchDataset(Dataset[Batch]):
    """Batches of examples; one item is a whole batch, so that shuffling them keeps lengths together."""

    def __init__(self, examples: Sequence[Example], batch_tokens: int, seed: int = 0) -> None:
        self._parts = pack(examples, batch_tokens, seed)

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> Batch:
        return collate(self._parts[index])


def pack(examples: Sequence[Example], batch_tokens: int, seed: int = 0) -> list[list[Example]]:
    """Deal examples of similar length into batches of at most `batch_tokens` tokens, padding included.

    An example longer than that gets a batch of its own. Among equally long examples the order is random, by the seed,
    so that replies to one prompt do not fill a batch.
    """
    shuffled = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    batches: list[list[Example]] = []
    for example in sorted((examples[index] for index in shuffled), key=lambda example: len(example.token_ids)):
        # Sorted by length: the newcomer is the longest, so it sets the width.
        if batches and (len(batches[-1]) + 1) * len(example.token_ids) <= batch_tokens:
            batches[-1].append(example)
        else:
            batches.append([example])
    return batches


def collate(examples: Sequence[Example]) -> Batch:
    """Pad examples on the right into one batch."""
    lengths = torch.tensor([len(example.token_ids) for example in examples])
    width = int(lengths.max())
    input_ids = torch.full((len(examples), width), PAD_ID)
    for row, example in zip(input_ids, examples, strict=True):
        row[: len(example.token_ids)] = torch.tensor(example.token_ids)
    objectives = examples[0].learned.targets.shape[1]
    targets = torch.zeros(len(examples), width, objectives)
    mask = torch.zeros(len(examples), width, objectives, dtype=torch.bool)
    for row, example in enumerate(examples):
        reply = slice(example.prompt_length - 1, len(example.token_ids))
        targets[row, reply] = example.learned.targets.float()
        teaches = torch.tensor(example.teaches or (True,) * objectives)
        mask[row, reply] = example.learned.counts[:, None] & teaches
    return Batch(
        input_ids=input_ids,
        attention_mask=(torch.arange(width) < lengths[:, None]).long(),
        targets=targets,
        loss_mask=mask,
    )


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Scored replies of the three splits; no prompt is in two of them."""

    objectives: tuple[str, ...]
    examples: dict[SplitName, list[Example]]


def load_training_data(run: Run) -> TrainingData:
    """What the rollouts and rewards stages left."""
    names = tuple(run.rewards)
    rewards = read_rewards(run.finished("rewards"), names)
    everything = read_rollouts(run.finished("rollouts"))
    rollouts = [rollout for rollout in everything if run.learns_from(rollout.split, rollout.sample)]
    base = torch.tensor(list(run.base_rewards().values()), dtype=torch.float64)
    standardised = standardise(
        torch.tensor([rewards[rollout.prompt_id, rollout.sample] for rollout in rollouts], dtype=torch.float64),
        base[:, 0],
        base[:, 1],
        run.recipe.fit.clip,
    )
    examples: dict[SplitName, list[Example]] = {name: [] for name in SPLITS}
    trees = groupby(zip(rollouts, standardised, strict=True), key=lambda pair: pair[0].prompt_id)
    for prompt_id, pairs in trees:
        tree, own_rewards = zip(*pairs, strict=True)
        leaves = [Leaf(rollout.nodes, rollout.ends, rollout.log_ratios) for rollout in tree]
        left_out = _left_out(tree, run.recipe.fit.bottom_share, f"{run.recipe.seed}:{prompt_id}")
        weights = tree_weights(run, prompt_id)
        zeta = torch.tensor(prices(run.recipe.fit.zeta, weights, names))
        # A prefix is worth to an objective what the policy tilted by it makes of it.
        teaches = tuple(bool(weights.get(name)) for name in names) if weights else None
        learned = tree_targets(leaves, torch.stack(own_rewards), zeta, left_out)
        for rollout, targets in zip(tree, learned, strict=True):
            tokens = rollout.prompt_token_ids + rollout.output_token_ids
            examples[rollout.split].append(Example(tokens, len(rollout.prompt_token_ids), targets, teaches))
    return TrainingData(names, examples)


def _left_out(tree: Sequence[Rollout], bottom_share: float, seed: str) -> set[int]:
    """Nodes of a tree's last layer, by lot, so that leaves do not drown all others. One layer alone loses nothing."""
    layers = max(len(rollout.nodes) for rollout in tree)
    dice = random.Random(seed)
    bottom = [rollout.nodes[-1] for rollout in tree if len(rollout.nodes) == layers > 1]
    return {node for node in bottom if dice.random() >= bottom_share}
