"""Attention of a ragged batch of prefixes and candidates over the value KV cache.

One flat forward of the trunk carries, row after row, the tokens a sequence has gained since its last step (*pending*)
and its candidates. Pending tokens attend causally to everything before them and their keys and values are stored; a
candidate attends to the whole prefix and to itself only, and leaves nothing behind:

    softmax([q K^T, q k_self]) [V, v_self]

transformers' attention interface calls `cached_attention` in every layer of any decoder, so no architecture is spelled
out here.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from valuemodels.scoring.kv_cache import SequenceKV

ATTENTION_NAME = "mavis_cached"


@dataclass(frozen=True, slots=True)
class Segment:
    """One sequence's share of the flat batch: `pending` tokens from `start`, then `candidates`.

    Attributes:
        stored: how many tokens the cache held before this forward.
    """

    cache: SequenceKV
    start: int
    stored: int
    pending: int
    candidates: int

    @property
    def prefix(self) -> int:
        """Tokens in the cache once the pending ones are stored."""
        return self.stored + self.pending


def cached_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    segments: tuple[Segment, ...],
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface over the cache.

    Args:
        query: [1, heads, tokens, head_dim]; key, value: [1, kv_heads, tokens, head_dim], positions already encoded.
        segments: the flat batch's rows, in order.

    Returns:
        [1, tokens, heads, head_dim]
    """
    layer = cast(int, module.layer_idx)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = torch.empty_like(query)
    for segment in segments:
        stop = segment.start + segment.pending + segment.candidates
        q, k, v = (tensor[0, :, segment.start : stop] for tensor in (query, key, value))
        output[0, :, segment.start : stop] = _attend(layer, segment, q, k, v, scale)
    return output.transpose(1, 2), None


def _attend(layer: int, segment: Segment, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """q: [heads, tokens, head_dim] -> the same shape."""
    pending, prefix = segment.pending, segment.prefix
    store = segment.cache.data[:, layer]
    store[0, :, segment.stored : prefix] = k[:, :pending]
    store[1, :, segment.stored : prefix] = v[:, :pending]
    keys, values = store[0, :, :prefix], store[1, :, :prefix]
    if pending <= 1:
        return _prefix_and_self(q, k, v, keys, values, scale, own_from=pending)
    prompt = _causal(q[:, :pending], keys, values, scale)
    if not segment.candidates:
        return prompt
    scored = _prefix_and_self(q[:, pending:], k[:, pending:], v[:, pending:], keys, values, scale, own_from=0)
    return torch.cat([prompt, scored], dim=1)


def _causal(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """The last q.shape[1] tokens of a sequence against all of it: token i sees everything up to itself."""
    pending, prefix = q.shape[1], keys.shape[1]
    sees = torch.ones(pending, prefix, dtype=torch.bool, device=q.device).tril(prefix - pending)
    return functional.scaled_dot_product_attention(
        q[None], keys[None], values[None], attn_mask=sees, scale=scale, enable_gqa=True
    )[0]


def _prefix_and_self(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, scale: float, own_from: int
) -> Tensor:
    """Every query against the whole stored prefix, and from query `own_from` on also against its own key.

    Args:
        q: [heads, tokens, head_dim]; k, v: [kv_heads, tokens, head_dim].
        keys, values: [kv_heads, prefix, head_dim].
    """
    heads, tokens, head_dim = q.shape
    kv_heads = k.shape[0]
    grouped = q.reshape(kv_heads, -1, tokens, head_dim)
    on_prefix = torch.einsum("hgtd,hpd->hgtp", grouped, keys)
    on_self = (grouped * k[:, None]).sum(-1, keepdim=True)
    # A pending token is in the cache already: its own key must not count twice.
    on_self[:, :, :own_from] = float("-inf")
    weights = torch.softmax(torch.cat([on_prefix, on_self], dim=-1).float() * scale, dim=-1).to(q.dtype)
    mixed = torch.einsum("hgtp,hpd->hgtd", weights[..., :-1], values) + weights[..., -1:] * v[:, None]
    return mixed.reshape(heads, tokens, head_dim)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, cached_attention)
