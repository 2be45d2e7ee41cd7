"""The shipped trunk in bfloat16: through the cache its values are those without, to a fraction of what a weight shows.

Values are in standard deviations of the base's reward. The tiny random trunks of the other tests are exact in float32;
what rounding does to values can only be seen on a real one.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from training.prompts.chat import render_chat
from valuemodels.models.checkpoint import load_value_model
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.exact import ExactScorer, Prefix, Query
from valuemodels.scoring.kv_blocks import blocks_for
from valuemodels.scoring.own_check import uncached_values
from valuemodels.sources.embedded import EMBEDDED_VALUES, prepare_embedded_base

BOUND = {torch.bfloat16: 0.02, torch.float32: 1e-4}
CANDIDATES = 6
TEXTS = ("What is a good breakfast?", "Describe your town in winter.", "Why do cats purr at night?")


@pytest.fixture(scope="module")
def base() -> Path:
    return prepare_embedded_base()


@pytest.fixture(scope="module")
def chats(base: Path) -> list[list[int]]:
    """Prompts under the same system prompt, which the last of them carries on far beyond a block."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = [list(render_chat(tokenizer, text)) for text in TEXTS]
    return [*prompts, prompts[0] * 4]


def load(base: Path, dtype: torch.dtype) -> ValueModel:
    return load_value_model(EMBEDDED_VALUES, str(base), dtype=dtype, device="cpu")


def advantages(values: Tensor) -> Tensor:
    return values - values.mean(0)


def assert_same(model: ValueModel, queries: Sequence[Query], found: Sequence[Tensor], bound: float) -> None:
    for query, values in zip(queries, found, strict=True):
        expected = uncached_values(model, torch.tensor(query.token_ids), query.candidates)
        worst = (advantages(values) - advantages(expected)).abs().max().item()
        assert worst <= bound, (query.sequence_id, worst)


@pytest.mark.parametrize("dtype", BOUND, ids=str)
def test_cached_values_are_the_uncached_ones(base: Path, chats: list[list[int]], dtype: torch.dtype) -> None:
    """Over mixed batches, prompts in chunks, shared beginnings, and a cache too small for all of them."""
    model, uncached = load(base, dtype), load(base, dtype)
    room = sum(blocks_for(len(chat)) for chat in chats[:3]) + 3 * blocks_for(CANDIDATES) + 4
    probe = ExactScorer(load(base, dtype), 1 << 26)
    scorer = ExactScorer(model, max(room, blocks_for(len(chats[3]) + 9) + 2) * probe.cache.shape.bytes_per_block)
    generator = torch.Generator().manual_seed(0)
    scorer.read([Prefix("3", chats[3][:40])])
    scorer.read([Prefix("3", chats[3][:90])])
    for _ in range(3):
        queries = [
            Query(str(n), list(chat), torch.randint(1000, 30000, (CANDIDATES,), generator=generator))
            for n, chat in enumerate(chats)
        ]
        assert_same(uncached, queries, scorer.score_queries(queries), BOUND[dtype])
        for chat in chats:
            chat.append(int(torch.randint(1000, 30000, (1,), generator=generator)))
    assert scorer.cache.evictions and scorer.cache.shared_tokens, "the test needs pressure and sharing"
    assert scorer.cache.bytes <= scorer.cache.budget_bytes
