"""What the value KV cache is made of: blocks of tokens, and the sequences that hold them. Imports torch alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

BLOCK_TOKENS = 16


class CacheFullError(RuntimeError):
    """What a step needs at once is more than the whole cache."""


@dataclass(frozen=True, slots=True)
class KVShape:
    """What a trunk keeps of one token: keys and values in every layer.

    Attributes:
        groups: heads of queries that share a head of keys.
    """

    layers: int
    kv_heads: int
    groups: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_block(self) -> int:
        """Of one block in all layers."""
        return BLOCK_TOKENS * 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


@dataclass(slots=True, eq=False)
class Block:
    """One block of tokens.

    Attributes:
        index: its place in the cache's tensor.
        name: what it stands by in the tree, once sealed; None before that, while one sequence alone writes to it.
        parent: the block before it; None is the root.
        children: sealed blocks that follow, by their names.
        users: how many sequences hold it.
    """

    index: int
    name: tuple[int, ...] | None = None
    parent: "Block | None" = None
    children: "dict[tuple[int, ...], Block]" = field(default_factory=dict)
    users: int = 0


@dataclass(slots=True, eq=False)
class SequenceKV:
    """One sequence's share of the cache.

    Attributes:
        token_ids: the tokens whose keys and values are stored, from position 0.
        blocks: theirs, and those reserved for the tokens that come next.
        salt: of its blocks, which only sequences with the same share.
    """

    token_ids: list[int] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    salt: str = ""

    def name_of(self, place: int, token_ids: Sequence[int]) -> tuple[int, ...]:
        """What a block of these tokens stands by: its own, those of the first after the salt."""
        tokens = tuple(token_ids[place * BLOCK_TOKENS : (place + 1) * BLOCK_TOKENS])
        return tokens if place else (*map(ord, self.salt), *tokens)  # of any characters, encodable or not

    @property
    def stored(self) -> int:
        """Tokens."""
        return len(self.token_ids)

    @property
    def block_indices(self) -> list[int]:
        """Their places in the cache's tensor."""
        return [block.index for block in self.blocks]


def blocks_for(tokens: int) -> int:
    """How many blocks hold that many tokens."""
    return -(-tokens // BLOCK_TOKENS)
