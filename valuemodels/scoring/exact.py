"""Exact scoring: the trunk reads every candidate after its prefix, over a cache of what it has read before."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from valuemodels.contract.errors import CheckpointError
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.attention import ATTENTION_NAME
from valuemodels.scoring.kv_blocks import BLOCK_TOKENS, CacheFullError, SequenceKV, blocks_for
from valuemodels.scoring.kv_cache import KVCache
from valuemodels.scoring.own_check import check_same, kv_shape_of, sample_of, uncached_values
from valuemodels.scoring.padded import PaddedStep
from valuemodels.scoring.parts import Part
from valuemodels.scoring.ragged import RaggedStep
from valuemodels.scoring.rows import Row
from valuemodels.scoring.scorer import ScoringBatch
from valuemodels.transfers import to_device

READ_TOKENS = 512
"""Of prefixes, in one forward: as much as fills the machine, and an attention mask that stays small."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A sequence to read.

    Attributes:
        sequence_id: names the sequence across steps.
        token_ids: all of it so far, prompt and output; at least one token.
        salt: what is read of it is shared with sequences of the same salt alone.
    """

    sequence_id: str
    token_ids: Sequence[int]
    salt: str = ""


@dataclass(frozen=True, slots=True)
class Query(Prefix):
    """One row to score.

    Attributes:
        candidates: [n] int64 next tokens to value.
    """

    candidates: Tensor = field(kw_only=True)


_AnyPrefix = TypeVar("_AnyPrefix", bound=Prefix)


def query_of(row: Row, candidates: Tensor) -> Query:
    """What is to be read for a row."""
    return Query(row.read_as, row.token_ids, row.cache_salt, candidates=candidates)


_Gain = tuple[SequenceKV, Sequence[int], Tensor]
"""A sequence, the tokens that it has gained, and candidates after them."""
PrepareTrunk = Callable[[nn.Module], None]


class ExactScorer:
    """Values V(prefix + candidate) by one flat forward a step over a ragged batch."""

    gives_levels = True

    def __init__(
        self,
        model: ValueModel,
        cache_bytes: int,
        prepare_trunk: PrepareTrunk | None = None,
        *,
        pads: bool | None = None,
    ) -> None:
        """Takes over the model: its attention becomes the cached one. The cache's memory is taken here.

        Args:
            prepare_trunk: changes the trunk in place into what runs faster; that it gives the same values is checked.
            pads: steps are padded to few shapes (`valuemodels.scoring.padded`), for devices that queue what they are
                to do; None: on a GPU.

        Raises:
            CheckpointError: the backbone's attention does not go through transformers' interface, or the cache is too
                small to try it.
        """
        self.model = model
        self.objectives = model.config.objectives
        # Every objective of a checkpoint with a trunk has one.
        self.scales = tuple(cast(float, objective.scale) for objective in self.objectives)
        self.checkpoint_id = model.config.id
        try:
            self.cache = KVCache(kv_shape_of(model), cache_bytes)
            is_queued = self.cache.shape.device.type == "cuda" if pads is None else pads
            self._padded = PaddedStep(model, self.cache) if is_queued else None
            self._ragged = RaggedStep(model, self.cache)
        except CacheFullError as error:
            raise CheckpointError(f"the value cache is too small: {error}") from None
        expected = uncached_values(model, *sample_of(model))
        model.backbone.config._attn_implementation = ATTENTION_NAME
        if prepare_trunk is not None:
            prepare_trunk(model.backbone)
        self._check_sample(expected)

    def score(self, batch: ScoringBatch) -> Tensor:
        """See `Scorer.score`. Unless steps are padded, a row with a single candidate is not read now but later."""
        token_ids, valid = batch.candidates.token_ids, batch.candidates.valid
        if self._padded is not None:  # to count candidates is to wait for the device
            named = zip(batch.rows, token_ids, strict=True)
            return torch.stack(self.score_queries([query_of(row, some) for row, some in named]))
        counts = valid.sum(-1).tolist()
        places = [place for place, count in enumerate(counts) if count > 1]
        queries = [query_of(batch.rows[place], token_ids[place, : counts[place]]) for place in places]
        values = torch.zeros(*token_ids.shape, len(self.objectives), device=token_ids.device)
        if queries:
            found = torch.cat(self.score_queries(queries))
            rows = to_device([place for place in places for _ in range(counts[place])], values.device)
            columns = to_device([c for place in places for c in range(counts[place])], values.device)
            values[rows, columns] = found
        return values

    @torch.inference_mode()
    def score_queries(self, queries: Sequence[Query]) -> list[Tensor]:
        """Per query [candidates, objectives] float32 values.

        Raises:
            CacheFullError: one of them alone needs more than the whole cache.
        """
        return [values for group in self._groups_of(queries) for values in self._score_group(group)]

    @torch.inference_mode()
    def read(self, prefixes: Sequence[Prefix]) -> None:
        """Read ahead of the step that will score these sequences, but for the tokens of an unfinished block.

        Raises:
            CacheFullError: one of them alone needs more than the whole cache.
        """
        for group in self._groups_of(prefixes):
            self._read_group(group, BLOCK_TOKENS)

    def _groups_of(self, prefixes: Sequence[_AnyPrefix]) -> Iterator[list[_AnyPrefix]]:
        """Parts of a step that find room in the cache together. Blocks that several hold already count once."""
        group: list[_AnyPrefix] = []
        counted: set[int] = set()
        room = self.cache.capacity
        for prefix in prefixes:
            needs = blocks_for(len(prefix.token_ids))
            needs += blocks_for(len(prefix.candidates)) if isinstance(prefix, Query) else 0
            if group and needs - len(counted.intersection(self.cache.held(prefix.sequence_id))) > room:
                yield group
                group, counted, room = [], set(), self.cache.capacity
            # Asked again: the part before may have taken blocks from this one.
            held = self.cache.held(prefix.sequence_id)
            group.append(prefix)
            room -= needs - len(counted.intersection(held))
            counted.update(held)
        if group:
            yield group

    def _read_group(self, prefixes: Sequence[Prefix], at_least: int) -> list[SequenceKV]:
        """Read what is missing, several sequences in one forward; what they have in common, once.

        Args:
            at_least: tokens that a sequence must miss to be worth it.

        Returns:
            What the cache holds of each now.
        """
        in_use = {prefix.sequence_id for prefix in prefixes}
        while True:
            gains: list[_Gain] = []
            room, begun = READ_TOKENS, set()
            sequences = [self.cache.open(prefix.sequence_id, prefix.token_ids, prefix.salt) for prefix in prefixes]
            for prefix, sequence in zip(prefixes, sequences, strict=True):
                start = sequence.stored
                # Up to a block's end, so that whoever begins alike can share it.
                stop = min(len(prefix.token_ids), start + room) // BLOCK_TOKENS * BLOCK_TOKENS
                if stop <= start or len(prefix.token_ids) - start < at_least:
                    continue
                begin = prefix.salt, tuple(prefix.token_ids[: start + BLOCK_TOKENS])
                if begin in begun:
                    continue
                begun.add(begin)
                self.cache.reserve(sequence, stop, in_use)
                gains.append((sequence, prefix.token_ids[start:stop], _NO_CANDIDATES))
                room -= stop - start
            if not gains:
                return sequences
            self._forward(gains, in_use)

    def _score_group(self, queries: Sequence[Query]) -> list[Tensor]:
        # What a block holds or less is read along with the candidates.
        sequences = self._read_group(queries, BLOCK_TOKENS + 1)
        in_use = {query.sequence_id for query in queries}
        gains: list[_Gain] = []
        for query, sequence in zip(queries, sequences, strict=True):
            self.cache.reserve(sequence, len(query.token_ids), in_use)
            gains.append((sequence, query.token_ids[sequence.stored :], query.candidates))
        return self._forward(gains, in_use)

    def _forward(self, gains: Sequence[_Gain], in_use: set[str]) -> list[Tensor]:
        """Values of everyone's candidates; the tokens gained are in the cache afterwards."""
        needs = [blocks_for(len(candidates)) for _, _, candidates in gains]
        borrowed = self.cache.borrow(sum(needs), in_use)
        self.cache.clean()
        lent = iter(borrowed)
        parts = [
            Part(sequence.stored, gained, candidates, [*sequence.block_indices, *islice(lent, more)])
            for (sequence, gained, candidates), more in zip(gains, needs, strict=True)
        ]
        try:
            step = self._padded if self._padded is not None and all(needs) else self._ragged
            values = step.values(parts)
        finally:
            self.cache.give_back(borrowed)
        for sequence, gained, _ in gains:
            self.cache.extend(sequence, gained)
        return values

    def _check_sample(self, expected: Tensor) -> None:
        """Refuse a backbone that does not give the expected values of `sample_of` with its new attention."""
        prefix, candidates = sample_of(self.model)
        try:
            found = self.score_queries([Query("sample", prefix.tolist(), candidates=candidates)])[0]
        except (TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"backbone of {self.checkpoint_id} cannot run with cached attention: {error}"
            ) from None
        self.cache.forget("sample")
        check_same(self.checkpoint_id, found, expected, self.cache.shape.dtype)


_NO_CANDIDATES = torch.empty(0, dtype=torch.int64)
