"""Scored rollouts as batches of similar length, padded on the right.

Runs in the fit's process. Imports torch, never vllm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from training.fit.targets import dense_targets, loss_mask, standardise
from training.prompts.chat import SPLITS, SplitName
from training.rollouts.scores import read_rewards
from training.rollouts.shards import read_rollouts
from training.runs.run import Run

PAD_ID = 0


@dataclass(frozen=True, slots=True)
class Example:
    """One scored reply.

    Attributes:
        token_ids: prompt and reply.
        prompt_length: tokens of the prompt, at least 1.
        rewards: standardised, one an objective.
    """

    token_ids: tuple[int, ...]
    prompt_length: int
    rewards: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.prompt_length <= len(self.token_ids):
            raise ValueError(f"prompt_length: got {self.prompt_length}, allowed is 1 to {len(self.token_ids)}")


class Batch(TypedDict):
    """Tensors of one batch.

    input_ids: [batch, tokens]; attention_mask: [batch, tokens], 1 = a real token; targets: [batch, tokens, objectives];
    loss_mask: [batch, tokens], True = carries a loss.
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
    mask = loss_mask(torch.tensor([example.prompt_length for example in examples]), lengths, width)
    return Batch(
        input_ids=input_ids,
        attention_mask=(torch.arange(width) < lengths[:, None]).long(),
        targets=dense_targets(torch.tensor([example.rewards for example in examples]), mask),
        loss_mask=mask,
    )


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Scored replies of the three splits; no prompt is in two of them."""

    objectives: tuple[str, ...]
    examples: dict[SplitName, list[Example]]


def load_training_data(run: Run) -> TrainingData:
    """What the rollouts and rewards stages left."""
    names = tuple(objective.name for objective in run.recipe.objectives)
    rewards = read_rewards(run.finished("rewards"), names)
    rollouts = read_rollouts(run.finished("rollouts"))
    base = run.stage("rewards").summary()["base"]
    standardised = standardise(
        torch.tensor([rewards[rollout.prompt_id, rollout.sample] for rollout in rollouts], dtype=torch.float64),
        torch.tensor([base[name]["mean"] for name in names], dtype=torch.float64),
        torch.tensor([base[name]["std"] for name in names], dtype=torch.float64),
        run.recipe.fit.clip,
    ).float()
    examples: dict[SplitName, list[Example]] = {name: [] for name in SPLITS}
    for rollout, row in zip(rollouts, standardised.tolist(), strict=True):
        tokens = rollout.prompt_token_ids + rollout.output_token_ids
        examples[rollout.split].append(Example(tokens, len(rollout.prompt_token_ids), tuple(row)))
    return TrainingData(names, examples)
