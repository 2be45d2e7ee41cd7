"""vLLM's own matrix products for a value trunk on a CPU, as the base model has them.

They keep the weights in the order that the processor's kernels want, which torch brings them into anew in every call:
up to three times faster for the few tokens of a decoding step. On other devices torch's own are what vLLM uses too.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm


class PackedLinear(nn.Module):
    """A linear layer through the product that vLLM picks for this processor; takes over the layer's weights."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.cpu_linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
        dispatch_cpu_unquantized_gemm(self, remove_weight=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]"""
        flat = inputs.reshape(-1, self.in_features)
        found = self.cpu_linear(flat, self.weight, self.bias)
        return found.view(*inputs.shape[:-1], self.out_features)


@torch.inference_mode()
def pack_linear_layers(trunk: nn.Module) -> None:
    """Replace every linear layer of a trunk; on other devices than a CPU, leave it as it is."""
    layers = [(name, layer) for name, layer in trunk.named_modules() if isinstance(layer, nn.Linear)]
    for name, layer in layers:
        if layer.weight.device.type == "cpu":
            parent, _, own = name.rpartition(".")
            setattr(trunk.get_submodule(parent), own, PackedLinear(layer))
