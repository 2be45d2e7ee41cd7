"""Attention of a batch of prefixes and candidates over the value KV cache, by a plan (`attention_plan`).

Rows of like length are gathered into *runs*, each of them one call of scaled dot-product attention, whatever the number
of rows. transformers' attention interface calls `cached_attention` in every layer of any decoder, so no architecture is
spelled out here.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from valuemodels.scoring.attention_plan import AttentionPlan, Run

ATTENTION_NAME = "mavis_cached"

_MOST_SCORES = 2**19
"""Of a part of a run, on a CPU: what stays in its caches."""


def cached_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    plan: AttentionPlan,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface over the cache.

    Args:
        query: [1, heads, tokens, head_dim]; key, value: [1, kv_heads, tokens, head_dim], positions already encoded.

    Returns:
        [1, tokens, heads, head_dim]
    """
    layer = cast(int, module.layer_idx)
    store = plan.cache.data[layer]
    head_dim = query.shape[-1]
    slots = store.view(store.shape[0], -1, head_dim)
    slots.index_copy_(1, plan.slots, torch.cat([key[0], value[0]]))
    if plan.runs[0].is_all:
        return _attend(plan.runs[0], plan.gathered(layer, plan.runs[0]), query[0], scaling)[None], None
    output = query.new_empty(1, query.shape[2], query.shape[1], head_dim)
    for run in plan.runs:
        found = _attend(run, plan.gathered(layer, run), query[0], scaling)
        if run.real is None:
            output[0, run.tokens] = found
        else:
            output[0, run.tokens[run.real]] = found[run.real]
    return output, None


def _attend(run: Run, gathered: Tensor, query: Tensor, scaling: float | None) -> Tensor:
    """query: [heads, tokens, head_dim] -> [rows * width, heads, head_dim]"""
    heads, _, head_dim = query.shape
    kv_heads = gathered.shape[0] // 2
    # Query heads that share keys stand below one another, as if they were more queries.
    groups = heads // kv_heads
    q = query if run.is_all else query[:, run.tokens]
    q = q.view(kv_heads, groups, run.rows, run.width, head_dim).transpose(1, 2)
    q = q.reshape(kv_heads, run.rows, groups * run.width, head_dim)
    keys, values = gathered.view(2, kv_heads, run.rows, -1, head_dim).unbind(0)
    if q.device.type == "cpu" and q.dtype != torch.float32:
        found = _attend_by_products(run, q, keys, values, scaling)
    else:
        q, keys, values = (part.transpose(0, 1) for part in (q, keys, values))
        found = functional.scaled_dot_product_attention(q, keys, values, attn_mask=run.mask, scale=scaling)
        found = found.transpose(0, 1)
    found = found.view(kv_heads, run.rows, groups, run.width, head_dim).permute(1, 3, 0, 2, 4)
    return found.reshape(run.rows * run.width, heads, head_dim)


def _attend_by_products(run: Run, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None) -> Tensor:
    """As `scaled_dot_product_attention`, in parts that stay in the caches, masked only where something is hidden.

    Args:
        query: [kv_heads, rows, queries, head_dim]; keys, values: [kv_heads, rows, columns, head_dim].
    """
    kv_heads, rows, queries, head_dim = query.shape
    columns = keys.shape[2]
    query = query * (head_dim**-0.5 if scaling is None else scaling)
    found = torch.empty_like(query)
    per_head = max(1, _MOST_SCORES // (queries * columns))
    heads_at_once, rows_at_once = max(1, min(kv_heads, per_head // rows)), min(rows, per_head)
    for head in range(0, kv_heads, heads_at_once):
        for row in range(0, rows, rows_at_once):
            part = (slice(head, head + heads_at_once), slice(row, row + rows_at_once))
            # Rows of one head, or all of some: they lie one behind the other, so that nothing has to be copied.
            q, k, v, into = (whole[part].view(-1, *whole.shape[2:]) for whole in (query, keys, values, found))
            scores = torch.bmm(q, k.mT)
            mask = run.mask[part[1], 0, :, run.seen :]
            scores.view(-1, len(mask), queries, columns)[..., run.seen :].add_(mask)
            torch.bmm(torch.softmax(scores, dim=-1), v, out=into)
    return found


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, cached_attention)
