"""Exact scoring: the trunk reads every candidate after its prefix, over a cache of what it has read before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from valuemodels.attention import ATTENTION_NAME, Segment
from valuemodels.kv_cache import KVCache, KVShape
from valuemodels.model import ValueModel
from valuemodels.value_config import CheckpointError, ObjectiveConfig

PREFILL_CHUNK = 512
_PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


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


class Scorer(Protocol):
    """Anything that values candidates: reading each of them, or all at once from a hidden state."""

    objectives: tuple[ObjectiveConfig, ...]
    checkpoint_id: str

    def score(self, queries: Sequence[Query]) -> list[Tensor]:
        """Per query [candidates, objectives] float32 values, in standard deviations of the base's reward."""
        ...


class ExactScorer:
    """Values V(prefix + candidate) by one flat forward a step over a ragged batch."""

    def __init__(self, model: ValueModel, cache_bytes: int) -> None:
        """Takes over the model: its attention becomes the cached one.

        Raises:
            CheckpointError: the backbone's attention does not go through transformers' interface.
        """
        self.model = model
        self.objectives = model.config.objectives
        self.checkpoint_id = model.config.id
        self.cache = KVCache(_kv_shape(model), cache_bytes)
        expected = self._uncached_probe()
        model.backbone.config._attn_implementation = ATTENTION_NAME
        self._check_probe(expected)

    @torch.inference_mode()
    def score(self, queries: Sequence[Query]) -> list[Tensor]:
        """See `Scorer.score`. Tokens of a prefix that are not cached yet are read, and kept for the next step."""
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
        hidden = self._run_trunk(torch.cat(token_ids), torch.cat(positions), tuple(segments))
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
    def _uncached_probe(self) -> Tensor:
        """Values of the probe's last token by a plain forward of each prefix + candidate."""
        prefix, candidates = self._probe()
        rows = torch.cat([prefix.expand(len(candidates), -1), candidates[:, None]], dim=1)
        return cast(Tensor, self.model(rows)[:, -1])

    def _check_probe(self, expected: Tensor) -> None:
        prefix, candidates = self._probe()
        try:
            found = self.score([Query("probe", prefix.tolist(), candidates)])[0]
        except (TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"backbone of {self.checkpoint_id} cannot run with cached attention: {error}"
            ) from None
        self.cache.forget("probe")
        difference = (found - expected).abs().max().item()
        if not difference <= _PROBE_TOLERANCE[self.cache.shape.dtype] * max(1.0, expected.abs().max().item()):
            raise CheckpointError(
                f"backbone of {self.checkpoint_id} gives other values with cached attention (off by {difference:.2g}); "
                "its architecture is not supported"
            )

    def _probe(self) -> tuple[Tensor, Tensor]:
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
