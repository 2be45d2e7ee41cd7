"""vLLM's own kernels for the layers of a value trunk on a CPU, as the base model runs on them.

Its matrix products keep weights in the order that the processor's kernels want, which torch brings them into anew in
every call: up to three times faster for the few tokens of a decoding step. Its norm is one pass over memory where
transformers' is eight. A layer that is not what it seems to be, by the numbers, is left as it is; so are
other devices than a CPU.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from vllm import _custom_ops as ops
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.01}
"""Of the largest number that a layer gives."""
_TRIED_TOKENS = 5


class PackedLinear(nn.Module):
    """A linear layer through the product that vLLM picks for this processor."""

    def __init__(self, *layers: nn.Linear) -> None:
        """Args: `layers`: of the same inputs; their outputs come side by side."""
        super().__init__()
        biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        assert len(biases) in (0, len(layers)), "all of them have a bias, or none"
        self.in_features = layers[0].in_features
        self.out_features = sum(layer.out_features for layer in layers)
        self.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)
        self.bias = nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None
        self.cpu_linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
        dispatch_cpu_unquantized_gemm(self, remove_weight=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]"""
        flat = inputs.reshape(-1, self.in_features)
        found = self.cpu_linear(flat, self.weight, self.bias)
        return found.view(*inputs.shape[:-1], self.out_features)


class FusedRMSNorm(nn.Module):
    """x / rms(x) * weight, in one pass."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight, self._epsilon = weight, epsilon

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., hidden] -> the same"""
        inputs = inputs.contiguous()
        found = torch.empty_like(inputs)
        ops.rms_norm(found, inputs, self.weight, self._epsilon)
        return found


class FusedGatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), with one product for gate and up."""

    def __init__(self, gate: nn.Linear, up: nn.Linear, down: nn.Linear) -> None:
        super().__init__()
        self.gate_up, self.down = PackedLinear(gate, up), PackedLinear(down)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., hidden] -> the same"""
        gate, up = self.gate_up(inputs).chunk(2, dim=-1)
        # vLLM's kernel for this is several times slower than torch's two.
        return cast(Tensor, self.down(functional.silu(gate).mul_(up)))


_GATED_MLP = ("gate_proj", "up_proj", "down_proj")


@torch.inference_mode()
def use_vllm_layers(trunk: nn.Module) -> None:
    """Replace what can be replaced in a trunk, in place."""
    if next(trunk.parameters()).device.type != "cpu":
        return
    for replace in (_fused_mlp, _fused_norm, _packed_linear):
        for name, layer in list(trunk.named_modules()):
            replacement = replace(layer) if name else None
            if replacement is not None and _gives_the_same(layer, *replacement):
                parent, _, own = name.rpartition(".")
                setattr(trunk.get_submodule(parent), own, replacement[0])


_Replacement = tuple[nn.Module, int]
"""A layer and the width of what it takes."""


def _fused_mlp(layer: nn.Module) -> _Replacement | None:
    parts = dict(layer.named_children())
    linear = [part for part in (parts.get(name) for name in _GATED_MLP) if isinstance(part, nn.Linear)]
    if len(linear) < len(_GATED_MLP) or (linear[0].bias is None) != (linear[1].bias is None):
        return None
    return FusedGatedMLP(*linear), linear[0].in_features


def _fused_norm(layer: nn.Module) -> _Replacement | None:
    weight, epsilon = getattr(layer, "weight", None), getattr(layer, "variance_epsilon", None)
    if not (isinstance(weight, nn.Parameter) and isinstance(epsilon, float)):
        return None
    return FusedRMSNorm(weight, epsilon), len(weight)


def _packed_linear(layer: nn.Module) -> _Replacement | None:
    return (PackedLinear(layer), layer.in_features) if isinstance(layer, nn.Linear) else None


def _gives_the_same(layer: nn.Module, replacement: nn.Module, width: int) -> bool:
    dtype = next(layer.parameters()).dtype
    inputs = torch.randn(_TRIED_TOKENS, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected, found = layer(inputs).float(), replacement(inputs).float()
    return bool((found - expected).abs().max() <= _TOLERANCE[dtype] * expected.abs().max())
