"""Recorded positions made up on the spot, in the recorder's format."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.distill.positions import PositionData
from valuemodels.contract.value_config import ProbeConfig
from valuemodels.models.probe import Probe, unit_rms
from valuemodels.tilting import advantages_of

HIDDEN, EMBEDDING, VOCABULARY, K = 32, 32, 64, 12
NAMES = ("warmth", "brevity")
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


def random_positions(count: int, teacher: Probe | None, embeddings: Tensor, seed: int = 1) -> dict[str, Tensor]:
    """Columns of a recorded shard.

    Args:
        teacher: gives the values, at a level of their own at each position; None: they are noise.
    """
    dice = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, HIDDEN, generator=dice).bfloat16()
    token_ids = torch.stack([torch.randperm(VOCABULARY, generator=dice)[:K] for _ in range(count)])
    logits = 2 * torch.randn(count, K, generator=dice)
    values = torch.randn(count, K, len(NAMES), generator=dice)
    if teacher is not None:
        with torch.no_grad():
            values = teacher(hidden, teacher.token(embeddings)[token_ids], token_ids)
        values = values + torch.randn(count, 1, len(NAMES), generator=dice)
    return {
        "hidden": hidden,
        "token_ids": token_ids.int(),
        "base_logprobs": logits.sort(descending=True).values.log_softmax(-1),
        "values": values,
    }


def as_data(columns: dict[str, Tensor]) -> PositionData:
    """Recorded columns as the fit reads them."""
    centred = advantages_of(columns["values"], columns["base_logprobs"])
    return PositionData(columns["hidden"], columns["token_ids"], columns["base_logprobs"], centred)


def write_shard(folder: Path, columns: dict[str, Tensor], number: int = 0) -> None:
    """Write a shard as the recorder does."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: column.contiguous() for name, column in columns.items()}, folder / f"positions_{number:05d}.safetensors"
    )
