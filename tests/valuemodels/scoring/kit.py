"""Queries for exact scoring, and what an uncached forward says of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TINY_VOCAB
from valuemodels.models.checkpoint import load_value_model
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.exact import ExactScorer, Query
from valuemodels.scoring.rows import Row
from valuemodels.scoring.scorer import ScoringBatch
from valuemodels.tilting import Candidates

TOLERANCE = 1e-4


def tokens(count: int, seed: int = 0) -> list[int]:
    return torch.randint(TINY_VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def scoring_batch(
    candidates: Candidates,
    hidden: torch.Tensor | None = None,
    *,
    rows: Sequence[Row] = (),
    coefficients: Sequence[float] = (0.0, 0.0),
    temperature: float = 1.0,
) -> ScoringBatch:
    """A batch whose rows all ask for the same."""
    count = candidates.logits.shape[0]
    return ScoringBatch(
        rows, candidates, torch.tensor([coefficients] * count), torch.full((count,), temperature), hidden
    )


def query(name: str, prefix: list[int], candidates: list[int], salt: str = "") -> Query:
    return Query(name, prefix, salt, candidates=torch.tensor(candidates, dtype=torch.int64))


def assert_exact(model: ValueModel, queries: list[Query], values: list[torch.Tensor]) -> None:
    for asked, found in zip(queries, values, strict=True):
        rows = torch.tensor([[*asked.token_ids, candidate] for candidate in asked.candidates.tolist()])
        expected = model(rows)[:, -1] if len(rows) else torch.empty(0, 2)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


def small(tiny_base: str, tiny_checkpoint: Path, blocks: int) -> ExactScorer:
    """A scorer whose cache holds that many blocks."""
    model = load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu")
    block = ExactScorer(model, 1 << 20).cache.shape.bytes_per_block
    return ExactScorer(load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu"), blocks * block)


def count_tokens(scorer: ExactScorer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward of the trunk reads from now on."""
    seen: list[int] = []
    forward = scorer.model.backbone.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(scorer.model.backbone, "forward", counting)
    return seen
