"""What exact scoring asks of a trunk before it serves: its shape, and the values it gives without any cache."""

from typing import cast

import torch
from torch import Tensor

from valuemodels.contract.errors import CheckpointError
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.kv_blocks import KVShape

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


def kv_shape_of(model: ValueModel) -> KVShape:
    """What the trunk keeps of one token."""
    config = model.backbone.config
    heads = config.num_attention_heads
    # Every head of queries has keys of its own where the config does not say.
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    parameter = next(model.backbone.parameters())
    return KVShape(
        layers=config.num_hidden_layers,
        kv_heads=kv_heads,
        groups=heads // kv_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype=parameter.dtype,
        device=parameter.device,
    )


def sample_of(model: ValueModel) -> tuple[Tensor, Tensor]:
    """Tokens to try a trunk on: a prefix [9] and candidates [3]."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.backbone.config.vocab_size, (12,), generator=generator)
    tokens = tokens.to(next(model.backbone.parameters()).device)
    return tokens[:9], tokens[9:]


@torch.inference_mode()
def uncached_values(model: ValueModel, prefix: Tensor, candidates: Tensor) -> Tensor:
    """Values [candidates, objectives] by a plain forward of each prefix + candidate."""
    rows = torch.cat([prefix.expand(len(candidates), -1), candidates[:, None]], dim=1)
    return cast(Tensor, model(rows)[:, -1])


def check_same(checkpoint_id: str, found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """
    Raises:
        CheckpointError: they differ by more than rounding in this dtype does.
    """
    difference = (found - expected).abs().max().item()
    if not difference <= _TOLERANCE[dtype] * max(1.0, expected.abs().max().item()):
        raise CheckpointError(
            f"backbone of {checkpoint_id} gives other values with cached attention (off by {difference:.2g}); "
            "its architecture is not supported"
        )
