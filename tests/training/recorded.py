"""Recorded positions made up on the spot: as the recorder writes them, and as the fits read them."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.fast.labels import Labels
from training.fast.positions import PositionData
from training.prompts.chat import SplitName
from valuemodels.contract.value_config import ProbeConfig
from valuemodels.models.probe import Probe, unit_rms

TRAIN: SplitName = "train"
VALIDATION: SplitName = "validation"
HIDDEN, EMBEDDING, VOCABULARY, K = 32, 32, 64, 12
NAMES = ("warmth", "brevity")
LETTERS = 52
"""Tokens of the tiny base from number 2 on."""

CONFIG = ProbeConfig(source="base", hidden=24, rank=8, scales=dict.fromkeys(NAMES, 1.0))


def new_probe(seed: int = 0, config: ProbeConfig = CONFIG) -> Probe:
    """A random probe with a random bias."""
    torch.manual_seed(seed)
    probe = Probe(HIDDEN, EMBEDDING, VOCABULARY, len(NAMES), config)
    torch.nn.init.normal_(probe.bias, std=0.2)
    return probe


def random_embeddings(seed: int = 0) -> Tensor:
    """[vocabulary, embedding]"""
    return unit_rms(torch.randn(VOCABULARY, EMBEDDING, generator=torch.Generator().manual_seed(seed)))


def random_candidates(count: int, dice: torch.Generator) -> dict[str, Tensor]:
    """`hidden`, `token_ids`, `base_logprobs` of some positions; all are letters."""
    logits = 2 * torch.randn(count, K, generator=dice)
    return {
        "hidden": torch.randn(count, HIDDEN, generator=dice),
        "token_ids": torch.stack([2 + torch.randperm(LETTERS, generator=dice)[:K] for _ in range(count)]).int(),
        "base_logprobs": logits.sort(descending=True).values.log_softmax(-1),
    }


def random_data(replies: int, tokens: int, seed: int = 1, held_out: int = 0) -> PositionData:
    """Replies of the base of equal length, each to a prompt of its own; rewards are noise.

    Args:
        held_out: the last so many replies are to validation prompts.
    """
    dice = torch.Generator().manual_seed(seed)
    count = replies * tokens
    columns = random_candidates(count, dice)
    return PositionData(
        **columns,
        logprobs=columns["base_logprobs"],
        chosen=torch.multinomial(columns["base_logprobs"].exp(), 1, generator=dice)[:, 0],
        prefix_rewards=torch.randn(count, len(NAMES), generator=dice),
        reply=torch.arange(replies).repeat_interleave(tokens),
        place=torch.arange(tokens).repeat(replies),
        final_rewards=torch.randn(replies, len(NAMES), generator=dice),
        weights=torch.zeros(replies, len(NAMES)),
        keys=tuple((f"p{number}", 0) for number in range(replies)),
        splits=(*[TRAIN] * (replies - held_out), *[VALIDATION] * held_out),
    )


def labels_by(teacher: Probe, embeddings: Tensor, data: PositionData) -> Labels:
    """Labels of every position and candidate, at a level of its own each."""
    token_ids = data.token_ids.long()
    with torch.no_grad():
        values = teacher(data.hidden, teacher.token(embeddings)[token_ids], token_ids)
    levels = torch.randn(len(data), 1, len(NAMES), generator=torch.Generator().manual_seed(7))
    candidates = torch.arange(K).expand(len(data), -1)
    return Labels(torch.arange(len(data)), candidates, data.base_logprobs.exp(), values + levels)


def write_recorded(folder: Path, columns: dict[str, Tensor], names: Sequence[str], number: int = 0) -> None:
    """Write a file as the recorder does.

    Args:
        columns: of the file.
        names: generation ids, which the column `sequence` points at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: column.contiguous() for name, column in columns.items()}
    save_file(tensors, folder / f"positions_{number:05d}.safetensors", metadata={"sequences": json.dumps(list(names))})
