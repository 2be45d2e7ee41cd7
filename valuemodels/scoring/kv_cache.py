"""Keys and values of the value trunk, kept in blocks between decoding steps.

All blocks are allocated at the start, within the operator's budget, and never more. A sequence is named by the engine's
own request id and has a list of blocks. A block that is full is *sealed*: it stands in a tree under the block before
it, found by its very tokens, and every sequence of the same salt that begins with them shares it (a system prompt, the
choices of `n > 1`). Nobody tells which sequences have ended, so blocks go in this order: sealed ones that no sequence
holds, least recently used first; then those of sequences that do not take part in the present step. What is stored is
checked against the tokens asked for: a stale or missing entry costs time, never a wrong value.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from valuemodels.scoring.kv_blocks import BLOCK_TOKENS, Block, CacheFullError, KVShape, SequenceKV, blocks_for
from valuemodels.transfers import to_device

_REMEMBERED = 4096


class KVCache:
    """All sequences' keys and values.

    Attributes:
        data: [layers, 2 (keys, values) * kv_heads, blocks, block_tokens * head_dim].
        evictions: how often a sequence came back after its blocks had been taken, and has to be read again.
        shared_tokens: tokens that did not have to be read, since another sequence began with the same.
    """

    def __init__(self, shape: KVShape, budget_bytes: int) -> None:
        """
        Raises:
            CacheFullError: the budget does not hold a single block.
        """
        self.shape = shape
        self.capacity = budget_bytes // shape.bytes_per_block
        if self.capacity < 1:
            raise CacheFullError(f"{budget_bytes} bytes do not hold a block of {shape.bytes_per_block}")
        size = (shape.layers, 2 * shape.kv_heads, self.capacity, BLOCK_TOKENS * shape.head_dim)
        self.data = torch.empty(size, dtype=shape.dtype, device=shape.device)
        self.evictions = self.shared_tokens = self._fresh = 0
        self._root = Block(-1, name=())
        self._free: list[int] = []
        self._unclean: list[int] = []
        self._gathered = self.data.new_empty(0)
        self._idle: OrderedDict[Block, None] = OrderedDict()
        self._sequences: OrderedDict[str, SequenceKV] = OrderedDict()
        self._forgotten: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        """How many sequences hold blocks."""
        return len(self._sequences)

    @property
    def bytes(self) -> int:
        """Held by sequences, or kept for those that begin with the same tokens."""
        return (self._fresh - len(self._free)) * self.shape.bytes_per_block

    @property
    def budget_bytes(self) -> int:
        """What all blocks take together."""
        return self.capacity * self.shape.bytes_per_block

    def open(self, sequence_id: str, prefix: Sequence[int], salt: str = "") -> SequenceKV:
        """The sequence's share, as the most recently used, holding as much of the prefix as there is, and no more."""
        sequence = self._sequences.get(sequence_id)
        is_new = sequence is None
        if sequence is None:
            sequence = self._sequences[sequence_id] = SequenceKV(salt=salt)
        self._sequences.move_to_end(sequence_id)
        self._keep_common_prefix(sequence, prefix)
        found = self._share(sequence, prefix)
        self.shared_tokens += found
        if is_new and sequence_id in self._forgotten:
            del self._forgotten[sequence_id]
            self.evictions += sequence.stored < len(prefix) - 1
        return sequence

    def held(self, sequence_id: str) -> list[int]:
        """The places of the blocks that a sequence holds."""
        return sequence.block_indices if (sequence := self._sequences.get(sequence_id)) else []

    def reserve(self, sequence: SequenceKV, tokens: int, in_use: Collection[str]) -> None:
        """Make room for a sequence of that many tokens.

        Args:
            in_use: the sequences whose blocks must stay.

        Raises:
            CacheFullError: those in use leave no more.
        """
        while len(sequence.blocks) < blocks_for(tokens):
            sequence.blocks.append(Block(self._allocate(in_use), users=1))

    def extend(self, sequence: SequenceKV, token_ids: Sequence[int]) -> None:
        """Note tokens whose keys and values have been written; blocks that are full by now are sealed."""
        first = sequence.stored // BLOCK_TOKENS
        sequence.token_ids.extend(token_ids)
        for place in range(first, sequence.stored // BLOCK_TOKENS):
            self._seal(sequence, place)

    def borrow(self, blocks: int, in_use: Collection[str]) -> list[int]:
        """Places for what is not to be kept. Raises as `reserve` does."""
        found: list[int] = []
        try:
            while len(found) < blocks:
                found.append(self._allocate(in_use))
        except CacheFullError:
            self.give_back(found)
            raise
        return found

    def give_back(self, indices: Sequence[int]) -> None:
        """Return what was borrowed."""
        self._free.extend(indices)

    def gathering_space(self, numbers: int) -> Tensor:
        """[numbers] of memory for copies of keys and values: the same at every call."""
        if self._gathered.numel() < numbers:
            self._gathered = self.data.new_empty(numbers)
        return self._gathered[:numbers]

    def clean(self) -> None:
        """Blank what has been handed out since the last call.

        A key that nobody sees has no weight, but no weight times a number that is none is none: what another sequence
        left behind must not reach this one.
        """
        if self._unclean:
            self.data.index_fill_(2, to_device(self._unclean, self.data.device), 0.0)
            self._unclean = []

    def set_aside(self) -> int:
        """Take a block out of use for good. Raises `CacheFullError` where it is the last one."""
        if self.capacity == 1:
            raise CacheFullError(f"one block of {self.shape.bytes_per_block} bytes is too few")
        self.capacity -= 1
        self.data[:, :, self.capacity] = 0.0
        return self.capacity

    def forget(self, sequence_id: str) -> None:
        """Let go of a sequence's blocks, if it has any; sealed ones stay for others until they are needed."""
        if (sequence := self._sequences.pop(sequence_id, None)) is not None:
            self._truncate(sequence, 0)

    def _keep_common_prefix(self, sequence: SequenceKV, prefix: Sequence[int]) -> None:
        stored = sequence.token_ids
        if list(prefix[: len(stored)]) == stored:
            return
        pairs = enumerate(zip(stored, prefix, strict=False))
        common = next((place for place, (mine, theirs) in pairs if mine != theirs), min(len(stored), len(prefix)))
        self._truncate(sequence, common)

    def _truncate(self, sequence: SequenceKV, tokens: int) -> None:
        kept = blocks_for(tokens)
        if tokens % BLOCK_TOKENS and sequence.blocks[kept - 1].name is not None:
            # A sealed block is never written to again, so what it holds beyond the cut goes with all of it.
            kept = tokens // BLOCK_TOKENS
            tokens = kept * BLOCK_TOKENS
        while len(sequence.blocks) > kept:
            self._release(sequence.blocks.pop())
        del sequence.token_ids[tokens:]

    def _share(self, sequence: SequenceKV, prefix: Sequence[int]) -> int:
        """Take up sealed blocks that go on as the prefix does; how many tokens they hold."""
        if sequence.stored % BLOCK_TOKENS:
            return 0
        start = sequence.stored
        place = start // BLOCK_TOKENS
        node = sequence.blocks[place - 1] if place else self._root
        while (stop := sequence.stored + BLOCK_TOKENS) <= len(prefix):
            child = node.children.get(sequence.name_of(place, prefix))
            if child is None:
                break
            self._idle.pop(child, None)
            child.users += 1
            if place < len(sequence.blocks):  # reserved and not needed
                self._release(sequence.blocks[place])
                sequence.blocks[place] = child
            else:
                sequence.blocks.append(child)
            sequence.token_ids.extend(prefix[sequence.stored : stop])
            node, place = child, place + 1
        return sequence.stored - start

    def _seal(self, sequence: SequenceKV, place: int) -> None:
        """Put a full block into the tree, or let go of it where another with the same tokens stands there."""
        block = sequence.blocks[place]
        parent = sequence.blocks[place - 1] if place else self._root
        name = sequence.name_of(place, sequence.token_ids)
        twin = parent.children.get(name)
        if twin is None:
            block.name, block.parent = name, parent
            parent.children[name] = block
            return
        self._idle.pop(twin, None)
        twin.users += 1
        sequence.blocks[place] = twin
        self._free.append(block.index)

    def _release(self, block: Block) -> None:
        block.users -= 1
        if block.name is None:
            self._free.append(block.index)
        elif not block.users and not block.children:
            self._idle[block] = None

    def _allocate(self, in_use: Collection[str]) -> int:
        index = self._taken(in_use)
        self._unclean.append(index)
        return index

    def _taken(self, in_use: Collection[str]) -> int:
        if self._free:
            return self._free.pop()
        if self._fresh < self.capacity:
            self._fresh += 1
            return self._fresh - 1
        while not self._idle:
            self._evict(in_use)
            if self._free:
                return self._free.pop()
        block, _ = self._idle.popitem(last=False)
        self._drop(block)
        return block.index

    def _drop(self, block: Block) -> None:
        """Take an idle block out of the tree. Its parent, which nobody follows now, is the next to go."""
        parent = block.parent
        assert parent is not None and block.name is not None, "an idle block is sealed"
        del parent.children[block.name]
        if parent is not self._root and not parent.users and not parent.children:
            self._idle[parent] = None
            self._idle.move_to_end(parent, last=False)

    def _evict(self, in_use: Collection[str]) -> None:
        """Let go of the least recently used sequence."""
        name = next((name for name in self._sequences if name not in in_use), None)
        if name is None:
            raise CacheFullError(
                f"the value cache of {self.capacity * BLOCK_TOKENS} tokens does not hold what one step needs at once"
            )
        self.forget(name)
        # Nobody tells which sequences have ended, so an eviction counts once its sequence comes back.
        self._forgotten[name] = None
        if len(self._forgotten) > _REMEMBERED:
            self._forgotten.popitem(last=False)
