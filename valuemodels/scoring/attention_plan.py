"""Where the keys of a step's tokens go, and who sees what: the same in every layer.

One flat forward of the trunk carries, row after row, the tokens a sequence has gained since its last step (*pending*)
and its candidates. Every token's key and value go into the cache first: those of pending tokens into their sequence's
blocks, those of candidates into blocks that are borrowed for the step. Then all of a row's keys are columns of one
table, and a mask says who sees what: a pending token everything up to itself; a candidate the whole prefix and itself,
and nothing of its neighbours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from valuemodels.scoring.kv_blocks import BLOCK_TOKENS, KVShape, blocks_for
from valuemodels.scoring.kv_cache import KVCache
from valuemodels.transfers import to_device

MOST_GATHERED_BYTES = 64 * 2**20
"""Of one layer's keys and values, side by side for a run."""


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
        is_recorded: the forward may be part of a CUDA graph, which owns its memory.
    """

    cache: KVCache
    slots: Tensor
    runs: tuple[Run, ...]
    is_recorded: bool = False

    def gathered(self, layer: int, run: Run) -> Tensor:
        """A run's keys and values in one layer: [2 * kv_heads, rows * blocks, block_tokens * head_dim].

        Unless it is recorded, they lie in memory that the next call writes over: fresh memory of this size costs more
        than the copy.
        """
        store = self.cache.data[layer]
        if self.is_recorded:
            return store.index_select(1, run.table)
        size = (store.shape[0], len(run.table), store.shape[2])
        space = self.cache.gathering_space(math.prod(size)).view(size)
        return torch.index_select(store, 1, run.table, out=space)


def plan_attention(cache: KVCache, segments: Sequence[Segment]) -> AttentionPlan:
    """Where the keys of a flat batch go, and its runs."""
    device = cache.shape.device
    slots = to_device([slot for segment in segments for slot in segment.slots], device)
    runs = tuple(_run(cache.shape, some, len(slots)) for some in _alike(segments, most_gathered(cache.shape)))
    return AttentionPlan(cache, slots, runs)


def most_gathered(shape: KVShape) -> int:
    """How many blocks may lie side by side for a run."""
    return max(1, MOST_GATHERED_BYTES * shape.layers // shape.bytes_per_block)


def mask_of(shape: KVShape, limits: Tensor, own: Tensor, blocks: int) -> Tensor:
    """`Run.mask` of queries that see the columns before their limit, and their own.

    Args:
        limits, own: [rows, width].
    """
    column = torch.arange(blocks * BLOCK_TOKENS, device=limits.device)
    mask = torch.zeros(*limits.shape, len(column), dtype=shape.dtype, device=limits.device)
    mask.masked_fill_((column >= limits[..., None]) & (column != own[..., None]), float("-inf"))
    return mask[:, None].repeat(1, 1, shape.groups, 1)


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
    return Run(
        rows=len(segments),
        width=width,
        tokens=to_device(tokens, device),
        table=to_device(table, device),
        mask=mask_of(shape, to_device(limits, device), to_device(own, device), blocks),
        seen=min(least for sees in limits for least in sees),
        real=None if len(real) == len(tokens) else to_device(real, device),
        is_all=tokens == list(range(all_tokens)),
    )
