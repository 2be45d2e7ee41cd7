"""Steps padded to few shapes; that their values are exact, every test with `scorer` asks as well."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.valuemodels.scoring.kit import assert_exact, count_tokens, query, tokens
from tests.valuemodels.scoring.test_graphs import recording
from tests.valuemodels.waits import counted_waits
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.guidance import ChoiceName, ResolvedGuidance
from valuemodels.models.checkpoint import load_value_model
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.exact import ExactScorer
from valuemodels.scoring.graphs import Graphs
from valuemodels.scoring.kv_blocks import BLOCK_TOKENS
from valuemodels.scoring.padded import PaddedStep, padded_rows
from valuemodels.scoring.rows import Row
from valuemodels.scoring.scorer import ScoringBatch
from valuemodels.tilting import NEG_INF, Candidates

GUIDANCE = ResolvedGuidance((1.0, 1.0), 1.0, 4, None, "exact", "totals", (1.0, 1.0), (0.0, 0.0))


@pytest.fixture
def padded(tiny_base: str, tiny_checkpoint: Path) -> ExactScorer:
    return scorer_with(tiny_base, tiny_checkpoint, 1 << 24)


def scorer_with(tiny_base: str, tiny_checkpoint: Path, cache_bytes: int) -> ExactScorer:
    model = load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu")
    return ExactScorer(model, cache_bytes, pads=True)


def batch_of(texts: list[list[int]], logits: torch.Tensor) -> ScoringBatch:
    rows = [Row(r, f"r{r}", "", ChoiceName(0, 0), GUIDANCE, 1.0, text, []) for r, text in enumerate(texts)]
    token_ids = torch.arange(logits.shape[1]).repeat(len(rows), 1)
    ones = torch.ones(len(rows))
    return ScoringBatch(rows, Candidates(token_ids, logits), ones[:, None].expand(-1, 2), ones)


def test_nothing_is_waited_for_and_who_is_no_candidate_has_a_finite_value(
    padded: ExactScorer, uncached: ValueModel
) -> None:
    texts = [tokens(5), tokens(18, 1), tokens(33, 2)]
    logits = torch.zeros(3, 4)
    logits[0, 2:] = logits[1, 1:] = NEG_INF
    batch = batch_of(texts, logits)
    padded.read([query(row.read_as, row.token_ids, []) for row in batch.rows])
    with counted_waits() as seen:
        values = padded.score(batch)
    assert seen == [] and values.shape == (3, 4, 2) and values.isfinite().all()
    assert_exact(uncached, [query("", text, [0, 1, 2, 3]) for text in texts], list(values))


def test_many_batches_have_few_shapes(padded: ExactScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a graph to capture, which takes longer than many steps."""
    seen = count_tokens(padded, monkeypatch)
    for step in range(40):
        rows = 9 + step % 4
        padded.score(batch_of([tokens(4 + step, row) for row in range(rows)], torch.zeros(rows, 4)))
    prompts = {count for count in seen if count % BLOCK_TOKENS == 0}  # read ahead, ragged
    assert set(seen) - prompts <= {rows * (pending + 4) for rows in (10, 12) for pending in (1, BLOCK_TOKENS)}


def test_rows_are_padded_by_less_than_a_third() -> None:
    sizes = [padded_rows(rows) for rows in range(1, 513)]
    assert all(rows <= size < 1.34 * rows for rows, size in enumerate(sizes, 1))
    assert len(set(sizes)) <= 40


def test_keys_that_do_not_fit_side_by_side_are_gathered_in_parts(padded: ExactScorer, uncached: ValueModel) -> None:
    step = padded._padded
    assert step is not None
    step._most_blocks = 20
    asked = [query(f"s{n}", tokens(20 + 9 * n, n), [1, 2, 3]) for n in range(5)]
    assert_exact(uncached, asked, padded.score_queries(asked))


def test_replayed_steps_are_exact(padded: ExactScorer, uncached: ValueModel) -> None:
    """On static inputs, as graphs are: would catch whatever is fixed at the capture that should follow the inputs."""
    calls: list[str] = []
    padded._padded = PaddedStep(padded.model, padded.cache, Graphs(recording(calls)))
    texts: dict[str, Any] = {f"s{n}": tokens(3 + 11 * n, n) for n in range(4)}
    for step in range(20):
        asked = [query(name, list(text), tokens(5, step)) for name, text in texts.items()]
        assert_exact(uncached, asked, padded.score_queries(asked))
        for n, text in enumerate(texts.values()):
            text.append(step + n)
    assert calls.count("replayed") == 20 and calls.count("captured") <= 3


def test_a_cache_of_one_block_is_too_small(tiny_base: str, tiny_checkpoint: Path, padded: ExactScorer) -> None:
    block = padded.cache.shape.bytes_per_block
    with pytest.raises(CheckpointError, match="too small"):
        scorer_with(tiny_base, tiny_checkpoint, block)
    assert scorer_with(tiny_base, tiny_checkpoint, 4 * block).cache.capacity == 3
    assert not padded.cache.data[:, :, padded.cache.capacity].isnan().any()
