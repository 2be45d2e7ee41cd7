"""Exact scoring's step in few shapes: as many places for every row's tokens, candidates and blocks.

A ragged batch (`valuemodels.scoring.ragged`) has another shape in every step, and its plan is made on the host from
how many candidates each row has. Here rows are padded instead, and all that follows from a row's lengths is computed on
the device. So nothing is waited for, and the whole step, the trunk's forward with it, is one CUDA graph.

A row's line of numbers: how many tokens the cache holds of it (*stored*), how many it has gained since (*pending*), a
block that nobody reads (*scratch*), the pending tokens, and its table of blocks.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.attention_plan import AttentionPlan, Run, mask_of, most_gathered
from valuemodels.scoring.graphs import Graphs, graphs_on
from valuemodels.scoring.kv_blocks import BLOCK_TOKENS
from valuemodels.scoring.kv_cache import KVCache
from valuemodels.scoring.parts import Part
from valuemodels.transfers import to_device

_HEADER = 3
_LEAST_BLOCKS = 8


class PaddedStep:
    """Values of as many candidates after every row's prefix."""

    def __init__(self, model: ValueModel, cache: KVCache, graphs: Graphs | None = None) -> None:
        """Takes a block of the cache for good. Raises `CacheFullError` where that was the last one."""
        self._model = model
        self._cache = cache
        self._scratch = cache.set_aside()
        self._graphs = graphs_on(cache.shape.device) if graphs is None else graphs
        self._vocabulary = model.backbone.get_input_embeddings().weight.shape[0]
        self._most_blocks = most_gathered(cache.shape)

    def values(self, parts: Sequence[Part]) -> list[Tensor]:
        """Read what every row has gained, a block at most, and its candidates; keys of the former are stored.

        Returns:
            Of every part [candidates, objectives] float32.
        """
        found: list[Tensor] = []
        while len(found) < len(parts):
            rest = parts[len(found) :]
            found += self._values(rest[: self._fitting(rest)])
        return [values[: len(part.candidates)] for values, part in zip(found, parts, strict=True)]

    def _fitting(self, parts: Sequence[Part]) -> int:
        """How many parts from the first on are read at once: their keys are gathered side by side."""
        longest = 0
        for rows, part in enumerate(parts):
            longest = max(longest, _power_from(_LEAST_BLOCKS, len(part.table)))
            if rows and padded_rows(rows + 1) * longest > self._most_blocks:
                return rows
        return len(parts)

    def _values(self, parts: Sequence[Part]) -> Tensor:
        """[rows, k, objectives], where k is the most candidates of a part."""
        pending = 1 if max(len(part.gained) for part in parts) <= 1 else BLOCK_TOKENS
        blocks = _power_from(_LEAST_BLOCKS, max(len(part.table) for part in parts))
        absent = padded_rows(len(parts)) - len(parts)
        lines = [self._line(part, pending, blocks) for part in parts]
        lines += [[0, 0, self._scratch, *[0] * pending, *[self._scratch] * blocks]] * absent
        most, device = max(len(part.candidates) for part in parts), self._cache.shape.device
        short = [most - len(part.candidates) for part in parts]
        # Mostly none is short, and to pad by nothing is an operation a row.
        some = [pad(p.candidates, (0, less)) if less else p.candidates for p, less in zip(parts, short, strict=True)]
        candidates = pad(torch.stack(some), (0, 0, 0, absent)).to(device).long()

        def read(lines: Tensor, candidates: Tensor) -> Tensor:
            return self._read(lines, candidates, pending)

        return self._graphs.call(pending, read, to_device(lines, device), candidates)[: len(parts)]

    def _line(self, part: Part, pending: int, blocks: int) -> list[int]:
        gained, table = part.gained, part.table
        more, further = [0] * (pending - len(gained)), [table[0]] * (blocks - len(table))
        return [part.stored, len(gained), self._scratch, *gained, *more, *table, *further]

    def _read(self, lines: Tensor, candidates: Tensor, most_pending: int) -> Tensor:
        """[rows, k, objectives] of lines [rows, numbers] and candidates [rows, k], all on the device."""
        stored, pending, scratch = (lines[:, place, None] for place in range(_HEADER))
        gained, table = lines[:, _HEADER : _HEADER + most_pending], lines[:, _HEADER + most_pending :]
        prefix = stored + pending
        place = torch.arange(most_pending, device=lines.device)
        is_real, own = place < pending, stored + place
        borrowed = (prefix + BLOCK_TOKENS - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        beside = borrowed + torch.arange(candidates.shape[1], device=lines.device)
        # Every candidate stands where the next token will stand, and sees all of the prefix.
        after = prefix.expand_as(candidates)
        columns = torch.cat([torch.where(is_real, own, 0), beside], dim=1)
        positions = torch.cat([torch.where(is_real, own, 0), after], dim=1)
        limits = torch.cat([torch.where(is_real, own + 1, 1), after], dim=1)
        slots = table.gather(1, columns // BLOCK_TOKENS) * BLOCK_TOKENS + columns % BLOCK_TOKENS
        slots[:, :most_pending] = torch.where(is_real, slots[:, :most_pending], scratch * BLOCK_TOKENS)
        # A base may pad its vocabulary beyond the tokenizer's, and further than a trunk of its own does.
        token_ids = torch.cat([gained, candidates], dim=1).clamp_(max=self._vocabulary - 1)
        plan = AttentionPlan(self._cache, slots.view(-1), (self._run(columns, limits, table),), is_recorded=True)
        output = self._model.backbone(
            input_ids=token_ids.view(1, -1), position_ids=positions.view(1, -1), use_cache=False, plan=plan
        )
        hidden = output.last_hidden_state.view(*columns.shape, -1)[:, most_pending:]
        return cast(Tensor, self._model.head(hidden))

    def _run(self, columns: Tensor, limits: Tensor, table: Tensor) -> Run:
        """All rows, whose queries stand at these columns and see those before their limit; both [rows, width]."""
        rows, width = columns.shape
        mask = mask_of(self._cache.shape, limits, columns, table.shape[1])
        return Run(rows, width, columns, table.reshape(-1), mask, seen=0, real=None, is_all=True)


def padded_rows(rows: int) -> int:
    """To how many rows so many are padded: few shapes, of which none is much larger than what is in it."""
    step = max(1, _power_from(1, rows) // 8)
    return -(-rows // step) * step


def _power_from(least: int, number: int) -> int:
    """The smallest power of two that is no less than either; `least` is one."""
    return max(least, 1 << (number - 1).bit_length())
