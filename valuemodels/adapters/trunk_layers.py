"""vLLM's own kernels for the layers of a value trunk on a CPU, as the base model runs on them.

A decoder layer as Llama's becomes one of half as many operations: for the few tokens of a decoding step they, not the
products, are what takes the time. Matrix products keep weights in the order that the processor's kernels want, which
torch brings them into anew in every call: up to three times faster for the few tokens of a decoding step. A norm is one
pass over memory where transformers' is eight. A layer that is not what it seems to be, by the numbers, is left as it
is; so are other devices than a CPU.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from vllm import _custom_ops as ops
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.01}
"""Of the largest number that a layer gives."""
_TRIED_TOKENS = 5
_TRIED_POSITIONS = torch.arange(7, 7 + _TRIED_TOKENS)[None]


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
        self.weight, self.epsilon = weight, epsilon

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., hidden] -> the same"""
        inputs = inputs.contiguous()
        found = torch.empty_like(inputs)
        ops.rms_norm(found, inputs, self.weight, self.epsilon)
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


class FusedRotary(nn.Module):
    """The angles of a step's positions, as vLLM's kernel takes them, worked out once for all layers."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(self, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """[1, tokens] positions -> [tokens, cosines and sines], and each token's row in it"""
        both: tuple[Tensor, Tensor] = self.rotary(hidden, position_ids=position_ids)
        # Both halves of a head turn by the same angles.
        angles = torch.cat([part[0, :, : part.shape[-1] // 2] for part in both], dim=-1)
        return angles, torch.arange(len(angles), device=angles.device)


class FusedDecoderLayer(nn.Module):
    """x += attention(norm(x)), then x += mlp(norm(x)), as Llama has it, with one product for queries, keys and values.

    Attention goes through transformers' interface, as in the layer that it replaces. What comes in is overwritten.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        attention, mlp = cast(Any, layer.self_attn), cast(Any, layer.mlp)
        self.qkv = PackedLinear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.attended = PackedLinear(attention.o_proj)
        self.mlp = FusedGatedMLP(mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        self.norm, self.mlp_norm = (
            FusedRMSNorm(norm.weight, norm.variance_epsilon)
            for norm in (cast(Any, layer.input_layernorm), cast(Any, layer.post_attention_layernorm))
        )
        self._widths = [part.out_features for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        # The interface asks it for its layer's number and the like.
        self._attention = copy.copy(attention)
        self._attention._modules = {}

    def forward(self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **kwargs: Any) -> Tensor:
        """[1, tokens, hidden] -> the same, in place

        Args:
            position_embeddings: of `FusedRotary`.
            kwargs: `attention_mask` and `plan` are for attention; there is no other cache than the plan's.
        """
        residual, head_dim = hidden_states[0], self._attention.head_dim
        parts = self.qkv(self.norm(residual)).split(self._widths, dim=-1)
        angles, rows = position_embeddings
        ops.rotary_embedding(rows, parts[0], parts[1], head_dim, angles, True)
        heads = [part.view(1, len(rows), -1, head_dim).transpose(1, 2) for part in parts]
        attend = ALL_ATTENTION_FUNCTIONS[self._attention.config._attn_implementation]
        for_attention = {"plan": kwargs["plan"]} if "plan" in kwargs else {}
        mask = kwargs.get("attention_mask")
        found, _ = attend(self._attention, *heads, mask, scaling=self._attention.scaling, **for_attention)
        attended = self.attended(found.reshape(len(rows), -1))
        ops.fused_add_rms_norm(attended, residual, self.mlp_norm.weight, self.mlp_norm.epsilon)
        residual.add_(self.mlp(attended))
        return hidden_states


_DECODER_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_GATED_MLP = ("gate_proj", "up_proj", "down_proj")


@torch.inference_mode()
def use_vllm_layers(trunk: nn.Module) -> None:
    """Replace what can be replaced in a trunk, in place."""
    if next(trunk.parameters()).device.type != "cpu":
        return
    _fuse_decoder(trunk)
    for replace in (_fused_mlp, _fused_norm, _packed_linear):
        for name, layer in list(trunk.named_modules()):
            replacement = replace(layer) if name else None
            if replacement is not None and _is_same(layer(inputs := _inputs_of(layer)), replacement(inputs)):
                parent, _, own = name.rpartition(".")
                setattr(trunk.get_submodule(parent), own, replacement)


def _fuse_decoder(trunk: nn.Module) -> None:
    """All decoder layers, or none: what they are told of positions differs."""
    layers, rotary = getattr(trunk, "layers", None), getattr(trunk, "rotary_emb", None)
    if not isinstance(layers, nn.ModuleList) or rotary is None:
        return
    fused_rotary, fused = FusedRotary(rotary), []
    with _plain_attention(cast(Any, trunk).config):
        for layer in layers:
            replacement = _fused_decoder_layer(layer)
            if replacement is None:
                return
            inputs = _inputs_of(layer)[None]
            expected, found = (
                one(inputs.clone(), position_embeddings=turn(inputs, position_ids=_TRIED_POSITIONS))
                for one, turn in ((layer, rotary), (replacement, fused_rotary))
            )
            if not _is_same(expected, found):
                return
            fused.append(replacement)
    trunk.layers, trunk.rotary_emb = nn.ModuleList(fused), fused_rotary


def _fused_decoder_layer(layer: nn.Module) -> nn.Module | None:
    parts = dict(layer.named_children())
    if set(parts) != _DECODER_LAYER or set(dict(parts["self_attn"].named_children())) != _ATTENTION:
        return None
    norms = [_fused_norm(parts[name]) for name in ("input_layernorm", "post_attention_layernorm")]
    attention = [parts["self_attn"].get_submodule(name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    if _fused_mlp(parts["mlp"]) is None or None in norms or not all(isinstance(p, nn.Linear) for p in attention):
        return None
    return FusedDecoderLayer(layer) if len({part.bias is None for part in attention[:3]}) == 1 else None


def _fused_mlp(layer: nn.Module) -> nn.Module | None:
    parts = dict(layer.named_children())
    linear = [part for part in (parts.get(name) for name in _GATED_MLP) if isinstance(part, nn.Linear)]
    if len(linear) < len(_GATED_MLP) or (linear[0].bias is None) != (linear[1].bias is None):
        return None
    return FusedGatedMLP(*linear)


def _fused_norm(layer: nn.Module) -> nn.Module | None:
    weight, epsilon = getattr(layer, "weight", None), getattr(layer, "variance_epsilon", None)
    return FusedRMSNorm(weight, epsilon) if isinstance(weight, nn.Parameter) and isinstance(epsilon, float) else None


def _packed_linear(layer: nn.Module) -> nn.Module | None:
    return PackedLinear(layer) if isinstance(layer, nn.Linear) else None


def _inputs_of(layer: nn.Module) -> Tensor:
    """[tokens, width] to try a layer on; all of these take what their first weights' last dimension says."""
    weight = next(layer.parameters())
    return torch.randn(_TRIED_TOKENS, weight.shape[-1], generator=torch.Generator().manual_seed(0)).to(weight.dtype)


def _is_same(expected: Tensor, found: Tensor) -> bool:
    difference = (found.float() - expected.float()).abs().max()
    return bool(difference <= _TOLERANCE[expected.dtype] * expected.float().abs().max())


@contextmanager
def _plain_attention(config: PretrainedConfig) -> Iterator[None]:
    """The attention that a trunk is served with needs the cache's plan, which a trial does not have."""
    served, config._attn_implementation = config._attn_implementation, "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = served
