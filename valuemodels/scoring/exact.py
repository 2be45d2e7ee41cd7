"""Exact scoring: the trunk reads every candidate after its prefix, over a cache of what it has read before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from valuemodels.contract.errors import CheckpointError
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.attention import ATTENTION_NAME, Segment
from valuemodels.scoring.kv_cache import KVCache, KVShape
from valuemodels.scoring.scorer import ScoringBatch

PREFILL_CHUNK = 512
_SAMPLE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(frozen=True, slots=True)
class Query:
    """One row to score.

    Attributes:
        sequence_id: names the sequence across steps.
        prefix: all tokens so far, prompt and output; at least one.
        candidates: [n] int64 next tokens to value.
    """

    sequence_id: str
    prefix: Sequence[int]
    candidates: Tensor


class ExactScorer:
    """Values V(prefix + candidate) by one flat forward a step over a ragged batch."""

    gives_levels = True

    def __init__(self, model: ValueModel, cache_bytes: int) -> None:
        """Takes over the model: its attention becomes the cached one.

        Raises:
            CheckpointError: the backbone's attention does not go through transformers' interface.
        """
        self.model = model
        self.objectives = model.config.objectives
        # Every objective of a checkpoint with a trunk has one.
        self.scales = tuple(cast(float, objective.scale) for objective in self.objectives)
        self.checkpoint_id = model.config.id
        self._vocabulary = model.backbone.get_input_embeddings().weight.shape[0]
        self.cache = KVCache(_kv_shape(model), cache_bytes)
        expected = self._uncached_sample()
        model.backbone.config._attn_implementation = ATTENTION_NAME
        self._check_sample(expected)

    def score(self, batch: ScoringBatch) -> Tensor:
        """See `Scorer.score`. Tokens of a prefix that are not cached yet are read, and kept for the next step."""
        token_ids, valid = batch.candidates.token_ids, batch.candidates.valid
        counts = valid.sum(-1).tolist()
        queries = [
            Query(row.sequence_id, [*row.prompt, *row.output], token_ids[r, : counts[r]])
            for r, row in enumerate(batch.rows)
        ]
        values = torch.zeros(*token_ids.shape, len(self.objectives), device=token_ids.device)
        for r, found in enumerate(self.score_queries(queries)):
            values[r, : counts[r]] = found
        return values

    @torch.inference_mode()
    def score_queries(self, queries: Sequence[Query]) -> list[Tensor]:
        """Per query [candidates, objectives] float32 values."""
        for query in queries:
            self._prefill(query)
        values = self._forward(queries)
        self.cache.trim(in_use=[query.sequence_id for query in queries])
        return values

    def _prefill(self, query: Query) -> None:
        """Read a long gap chunk by chunk, so that no attention matrix is larger than chunk x prefix."""
        sequence = self.cache.open(query.sequence_id, len(query.prefix))
        stored = sequence.keep_common_prefix(query.prefix)
        nothing = query.candidates[:0]
        while len(query.prefix) - stored > PREFILL_CHUNK:
            stored += PREFILL_CHUNK
            self._forward([Query(query.sequence_id, query.prefix[:stored], nothing)])

    def _forward(self, queries: Sequence[Query]) -> list[Tensor]:
        device = self.cache.shape.device
        segments: list[Segment] = []
        token_ids: list[Tensor] = []
        positions: list[Tensor] = []
        start = 0
        for query in queries:
            sequence = self.cache.open(query.sequence_id, len(query.prefix))
            stored = sequence.keep_common_prefix(query.prefix)
            pending = list(query.prefix[stored:])
            count = query.candidates.shape[0]
            segments.append(Segment(sequence, start, stored, len(pending), count))
            token_ids += [torch.tensor(pending, dtype=torch.int64, device=device), query.candidates]
            # Every candidate stands where the next token will stand.
            positions.append(
                torch.arange(stored, len(query.prefix) + count, device=device).clamp_(max=len(query.prefix))
            )
            start += len(pending) + count
        # A base may pad its vocabulary beyond the tokenizer's, and further than a trunk of its own does.
        known = torch.cat(token_ids).clamp_(max=self._vocabulary - 1)
        hidden = self._run_trunk(known, torch.cat(positions), tuple(segments))
        for query, segment in zip(queries, segments, strict=True):
            segment.cache.token_ids.extend(query.prefix[segment.stored :])
        return [self.model.head(hidden[s.start + s.pending : s.start + s.pending + s.candidates]) for s in segments]

    def _run_trunk(self, token_ids: Tensor, positions: Tensor, segments: tuple[Segment, ...]) -> Tensor:
        """token_ids, positions: [tokens] -> last hidden states [tokens, hidden]."""
        output = self.model.backbone(
            input_ids=token_ids[None], position_ids=positions[None], use_cache=False, segments=segments
        )
        return cast(Tensor, output.last_hidden_state[0])

    @torch.inference_mode()
    def _uncached_sample(self) -> Tensor:
        """Values of the sample's last token by a plain forward of each prefix + candidate."""
        prefix, candidates = self._sample()
        rows = torch.cat([prefix.expand(len(candidates), -1), candidates[:, None]], dim=1)
        return cast(Tensor, self.model(rows)[:, -1])

    def _check_sample(self, expected: Tensor) -> None:
        prefix, candidates = self._sample()
        try:
            found = self.score_queries([Query("sample", prefix.tolist(), candidates)])[0]
        except (TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"backbone of {self.checkpoint_id} cannot run with cached attention: {error}"
            ) from None
        self.cache.forget("sample")
        difference = (found - expected).abs().max().item()
        if not difference <= _SAMPLE_TOLERANCE[self.cache.shape.dtype] * max(1.0, expected.abs().max().item()):
            raise CheckpointError(
                f"backbone of {self.checkpoint_id} gives other values with cached attention (off by {difference:.2g}); "
                "its architecture is not supported"
            )

    def _sample(self) -> tuple[Tensor, Tensor]:
        size = self.model.backbone.config.vocab_size
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(size, (12,), generator=generator).to(self.cache.shape.device)
        return tokens[:9], tokens[9:]


def _kv_shape(model: ValueModel) -> KVShape:
    config = model.backbone.config
    heads = config.num_attention_heads
    parameter = next(model.backbone.parameters())
    return KVShape(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype=parameter.dtype,
        device=parameter.device,
    )
