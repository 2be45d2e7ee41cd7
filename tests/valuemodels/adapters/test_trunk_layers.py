"""vLLM's kernels stand in for a trunk's layers where they give the same numbers, and nowhere else."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, GemmaConfig, LlamaConfig, OPTConfig, Qwen2Config

from valuemodels.adapters.trunk_layers import (
    FusedDecoderLayer,
    FusedGatedMLP,
    FusedRMSNorm,
    PackedLinear,
    use_vllm_layers,
)

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
OPT = OPTConfig(
    vocab_size=64, hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=64
)
TOKENS = torch.arange(18)[None]


def trunk(config: Any, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = AutoModel.from_config(config).to(dtype).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms of 1 and biases of 0 would hide what is done with them
            nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model


def kinds(model: nn.Module) -> set[type[nn.Module]]:
    ours = {FusedDecoderLayer, FusedGatedMLP, FusedRMSNorm, PackedLinear}
    return {type(layer) for layer in model.modules()} & {*ours, nn.Linear}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(**SIZES), {FusedDecoderLayer, FusedGatedMLP, FusedRMSNorm, PackedLinear}),
        (Qwen2Config(**SIZES), {FusedDecoderLayer, FusedGatedMLP, FusedRMSNorm, PackedLinear}),  # biases
        (GemmaConfig(**SIZES), {PackedLinear}),  # a norm by 1 + weight, another activation
        (OPT, {PackedLinear}),
    ],
    ids=["llama", "qwen2", "gemma", "opt"],
)
@torch.inference_mode()
def test_a_trunk_gives_the_same_on_vllms_kernels(config: Any, expected: set[type], dtype: torch.dtype) -> None:
    model = trunk(config, dtype)
    before = model(TOKENS).last_hidden_state.float()
    use_vllm_layers(model)
    after = model(TOKENS).last_hidden_state.float()
    assert kinds(model) == expected
    bound = {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype] * before.abs().max()
    assert (after - before).abs().max() <= bound


def test_a_layer_of_a_known_name_and_other_numbers_is_left_alone() -> None:
    """Would catch a norm that adds 1 to its weights, replaced for its attributes' sake."""

    class OddRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = nn.Parameter(torch.rand(64)), 1e-6

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return nn.functional.rms_norm(inputs, (64,), 1 + self.weight, self.variance_epsilon)

    model = nn.Sequential(OddRMSNorm(), nn.Linear(64, 64))
    use_vllm_layers(model)
    assert [type(layer) for layer in model] == [OddRMSNorm, PackedLinear]
