"""The shipped trunk through the cache: its values are those without, to what rounding in the trunk's own type leaves.

Values are in standard deviations of the base's reward. The tiny random trunks of the other tests are exact in float32;
what rounding does to values can only be seen on a real one.
"""

from collections.abc import Iterator
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
from valuemodels.sources.cpu import has_fast_bfloat16
from valuemodels.sources.embedded import EMBEDDED_VALUES, prepare_embedded_base

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


def scored(base: Path, chats: list[list[int]], dtype: torch.dtype) -> Iterator[tuple[Query, Tensor]]:
    """Queries and their values over mixed batches, prompts in chunks, shared beginnings, and a cache too small."""
    room = sum(blocks_for(len(chat)) for chat in chats[:3]) + 3 * blocks_for(CANDIDATES) + 4
    probe = ExactScorer(load(base, dtype), 1 << 26)
    budget = max(room, blocks_for(len(chats[3]) + 9) + 2) * probe.cache.shape.bytes_per_block
    scorer = ExactScorer(load(base, dtype), budget)
    generator = torch.Generator().manual_seed(0)
    scorer.read([Prefix("3", chats[3][:40])])
    scorer.read([Prefix("3", chats[3][:90])])
    for _ in range(3):
        queries = [
            Query(str(n), list(chat), candidates=torch.randint(1000, 30000, (CANDIDATES,), generator=generator))
            for n, chat in enumerate(chats)
        ]
        yield from zip(queries, scorer.score_queries(queries), strict=True)
        for chat in chats:
            chat.append(int(torch.randint(1000, 30000, (1,), generator=generator)))
    assert scorer.cache.evictions and scorer.cache.shared_tokens, "the test needs pressure and sharing"
    assert scorer.cache.bytes <= scorer.cache.budget_bytes


def without_cache(model: ValueModel, query: Query) -> Tensor:
    return advantages(uncached_values(model, torch.tensor(query.token_ids), query.candidates))


def rms(differences: list[Tensor]) -> float:
    return torch.cat(differences).square().mean().sqrt().item()


def largest(differences: list[Tensor]) -> float:
    return torch.cat(differences).abs().max().item()


def test_cached_values_are_the_uncached_ones(base: Path, chats: list[list[int]]) -> None:
    uncached = load(base, torch.float32)
    for query, values in scored(base, chats, torch.float32):
        worst = (advantages(values) - without_cache(uncached, query)).abs().max().item()
        assert worst <= 1e-4, (query.sequence_id, worst)


def test_in_bfloat16_the_cache_adds_no_error_to_that_of_rounding(base: Path, chats: list[list[int]]) -> None:
    """Where a processor multiplies bfloat16 natively, no value is further than 0.02 from what it is without the cache.

    Nor, where its rounding is coarser, than two roundings can be from one another: twice what one moves a value.

    Where it does not, bfloat16 is emulated (and served as float32): rounding alone moves single values by more. There
    the bound on one value is looser, and a prefix that is wrong by one token shows several times as much.
    """
    worst = 0.02 if has_fast_bfloat16() else 0.06
    uncached, exact = load(base, torch.bfloat16), load(base, torch.float32)
    to_uncached, error, error_uncached = [], [], []
    for query, values in scored(base, chats, torch.bfloat16):
        found, rounded, truth = advantages(values), without_cache(uncached, query), without_cache(exact, query)
        to_uncached.append(found - rounded)
        error.append(found - truth)
        error_uncached.append(rounded - truth)
    assert largest(to_uncached) <= max(worst, 2 * largest(error_uncached))
    assert rms(to_uncached) <= 0.01
    # The kernels that serve are not torch's: measured, 1.35 times its rounding with AMX, at most 1.25 times without.
    assert rms(error) <= 1.5 * rms(error_uncached)
