"""Attention of a ragged batch of prefixes and candidates over the value KV cache.

One flat forward of the trunk carries, row after row, the tokens a sequence has gained since its last step (*pending*)
and its candidates. Every token's key and value go into the cache first: those of pending tokens into their sequence's
blocks, those of candidates into blocks that are borrowed for the step. Then all of a row's keys are columns of one
table, and a mask says who sees what: a pending token everything up to itself; a candidate the whole prefix and itself,
and nothing of its neighbours.

Rows of like length are gathered into *runs*, each of them one call of scaled dot-product attention, whatever the number
of rows. transformers' attention interface calls `cached_attention` in every layer of any decoder, so no architecture is
spelled out here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from valuemodels.scoring.kv_blocks import BLOCK_TOKENS, KVShape, blocks_for
from valuemodels.scoring.kv_cache import KVCache
from valuemodels.transfers import to_device

ATTENTION_NAME = "mavis_cached"

MOST_GATHERED_BYTES = 64 * 2**20
"""Of one layer's keys and values, side by side for a run."""

_MOST_SCORES = 2**19
"""Of a part of a run, on a CPU: what stays in its caches."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One sequence's share of the flat batch: `pending` tokens from `start`, then `candidates`.

    Attributes:
        stored: how many tokens the cache held before this forward.
        table: the cache's blocks that hold the sequence, then those borrowed for its candidates.
    """

    start: int
    stored: int
    pending: int
    candidates: int
    table: Sequence[int]

    @property
    def width(self) -> int:
        """Tokens of the flat batch."""
        return self.pending + self.candidates

    @property
    def prefix(self) -> int:
        """Tokens of the sequence."""
        return self.stored + self.pending

    @property
    def columns(self) -> list[int]:
        """Of every token of the flat batch, where in `table`'s columns its own key stands."""
        borrowed = blocks_for(self.prefix) * BLOCK_TOKENS
        return [*range(self.stored, self.prefix), *range(borrowed, borrowed + self.candidates)]

    @property
    def slots(self) -> list[int]:
        """The same, by the cache's slots."""
        return [self.table[at // BLOCK_TOKENS] * BLOCK_TOKENS + at % BLOCK_TOKENS for at in self.columns]


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of like length.

    Attributes:
        tokens: [rows * width] place in the flat batch of every query; any place where a row is shorter.
        table: [rows * blocks] of the rows' keys; any block where a row has fewer.
        mask: [rows, 1, groups * width, columns] 0 where a query sees a key, else -inf.
        seen: how many columns, from the first, every query of every row sees.
        real: places in `tokens` of the queries that are no padding; None where all are real.
        is_all: the run is the whole flat batch, in its order.
    """

    rows: int
    width: int
    tokens: Tensor
    table: Tensor
    mask: Tensor
    seen: int
    real: Tensor | None
    is_all: bool


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Where keys go and who sees what: the same in every layer of a step.

    Attributes:
        slots: [tokens] of the flat batch, the cache's slot for its key and value.
    """

    cache: KVCache
    slots: Tensor
    runs: tuple[Run, ...]


def plan_attention(cache: KVCache, segments: Sequence[Segment]) -> AttentionPlan:
    """Where the keys of a flat batch go, and its runs."""
    device = cache.shape.device
    slots = to_device([slot for segment in segments for slot in segment.slots], device)
    most_blocks = MOST_GATHERED_BYTES * cache.shape.layers // cache.shape.bytes_per_block
    runs = tuple(_run(cache.shape, some, len(slots)) for some in _alike(segments, most_blocks))
    return AttentionPlan(cache, slots, runs)


def _alike(segments: Sequence[Segment], most_blocks: int) -> list[list[Segment]]:
    """Groups within which nobody is padded to much more than its own size, of that many blocks or of one segment."""
    groups: list[list[Segment]] = []
    for segment in sorted((s for s in segments if s.width), key=lambda s: (s.width, len(s.table), s.start)):
        least = groups[-1][0] if groups else segment
        fits = segment.width <= 1.25 * least.width + 4 and len(segment.table) <= 1.5 * len(least.table) + 4
        if groups and fits and (1 + len(groups[-1])) * len(segment.table) <= most_blocks:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return [sorted(group, key=lambda s: s.start) for group in groups]


def _run(shape: KVShape, segments: Sequence[Segment], all_tokens: int) -> Run:
    device = shape.device
    width, blocks = max(s.width for s in segments), max(len(s.table) for s in segments)
    tokens: list[int] = []
    table: list[int] = []
    real: list[int] = []
    limits, own = [], []
    for segment in segments:
        short = width - segment.width
        tokens += [*range(segment.start, segment.start + segment.width), *[segment.start] * short]
        real += range(len(tokens) - width, len(tokens) - short)
        table += [*segment.table, *[segment.table[0]] * (blocks - len(segment.table))]
        sees = [segment.stored + i + 1 for i in range(segment.pending)] + [segment.prefix] * segment.candidates
        limits.append([*sees, *[1] * short])
        own.append([*segment.columns, *[0] * short])
    column = torch.arange(blocks * BLOCK_TOKENS, device=device)
    limit, mine = (to_device(numbers, device)[..., None] for numbers in (limits, own))
    mask = torch.zeros(len(segments), width, len(column), dtype=shape.dtype, device=device)
    mask.masked_fill_((column >= limit) & (column != mine), float("-inf"))
    return Run(
        rows=len(segments),
        width=width,
        tokens=to_device(tokens, device),
        table=to_device(table, device),
        mask=mask[:, None].repeat(1, 1, shape.groups, 1),
        seen=min(least for sees in limits for least in sees),
        real=None if len(real) == len(tokens) else to_device(real, device),
        is_all=tokens == list(range(all_tokens)),
    )


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
        return _attend(plan.runs[0], plan.cache.gather(layer, plan.runs[0].table), query[0], scaling)[None], None
    output = query.new_empty(1, query.shape[2], query.shape[1], head_dim)
    for run in plan.runs:
        found = _attend(run, plan.cache.gather(layer, run.table), query[0], scaling)
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
