"""Keys and values of the value trunk, kept per sequence between decoding steps.

A sequence is named by the engine's own request id, so batch rows may move, leave and come back without losing it. What
is stored is checked against the tokens asked for: a stale or partial entry costs time, never a wrong value.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_GROWTH_TOKENS = 128
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class KVShape:
    """What a trunk keeps of one token: keys and values in every layer."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


@dataclass(slots=True)
class SequenceKV:
    """One sequence's cache.

    Attributes:
        data: [2 (keys, values), layers, kv_heads, capacity, head_dim].
        token_ids: the tokens whose keys and values are stored, from position 0.
    """

    data: Tensor
    token_ids: list[int] = field(default_factory=list)

    @property
    def capacity(self) -> int:
        return self.data.shape[3]

    def keep_common_prefix(self, token_ids: Sequence[int]) -> int:
        """Forget everything from the first token that differs; returns how many stay."""
        stored = self.token_ids
        if list(token_ids[: len(stored)]) != stored:
            common = 0
            for mine, theirs in zip(stored, token_ids, strict=False):
                if mine != theirs:
                    break
                common += 1
            del stored[common:]
        return len(stored)


class KVCache:
    """All sequences' caches, least recently used first, held to a byte budget by forgetting idle sequences.

    Attributes:
        evictions: how often a sequence came back after it had been forgotten, and has to be read again.
    """

    def __init__(self, shape: KVShape, budget_bytes: int) -> None:
        self.shape = shape
        self.budget_bytes = budget_bytes
        self.bytes = 0
        self.evictions = 0
        self._sequences: OrderedDict[str, SequenceKV] = OrderedDict()
        self._forgotten: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sequences)

    def open(self, sequence_id: str, tokens: int) -> SequenceKV:
        """The sequence's cache, with room for `tokens`, as the most recently used."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            sequence = SequenceKV(self._allocate(tokens))
            self._sequences[sequence_id] = sequence
            if sequence_id in self._forgotten:
                del self._forgotten[sequence_id]
                self.evictions += 1
        elif sequence.capacity < tokens:
            # Doubling keeps the copying linear in the sequence's final length.
            self._grow(sequence, max(tokens, 2 * sequence.capacity))
        self._sequences.move_to_end(sequence_id)
        return sequence

    def trim(self, in_use: Iterable[str]) -> None:
        """Forget idle sequences, least recently used first, until the budget holds."""
        if self.bytes <= self.budget_bytes:
            return
        keep = set(in_use)
        for sequence_id in [name for name in self._sequences if name not in keep]:
            self.forget(sequence_id)
            self._remember(sequence_id)
            if self.bytes <= self.budget_bytes:
                return

    def forget(self, sequence_id: str) -> None:
        """Drop a sequence's cache, if it has one."""
        if (sequence := self._sequences.pop(sequence_id, None)) is not None:
            self.bytes -= sequence.data.nbytes

    def _remember(self, sequence_id: str) -> None:
        """Nobody tells which sequences have ended, so an eviction counts once its sequence comes back."""
        self._forgotten[sequence_id] = None
        if len(self._forgotten) > _REMEMBERED:
            self._forgotten.popitem(last=False)

    def _allocate(self, tokens: int) -> Tensor:
        capacity = -(-tokens // _GROWTH_TOKENS) * _GROWTH_TOKENS
        shape = self.shape
        data = torch.empty(
            2, shape.layers, shape.kv_heads, capacity, shape.head_dim, dtype=shape.dtype, device=shape.device
        )
        self.bytes += data.nbytes
        return data

    def _grow(self, sequence: SequenceKV, tokens: int) -> None:
        old = sequence.data
        stored = len(sequence.token_ids)
        sequence.data = self._allocate(tokens)
        sequence.data[:, :, :, :stored] = old[:, :, :, :stored]
        self.bytes -= old.nbytes
