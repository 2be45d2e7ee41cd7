"""The value cache under sharing and pressure: what is read, what is kept, and never a wrong value."""

from pathlib import Path

import pytest

from tests.valuemodels.scoring.kit import assert_exact, count_tokens, query, small, tokens
from valuemodels.contract.errors import CheckpointError
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.exact import ExactScorer, Prefix
from valuemodels.scoring.kv_blocks import BLOCK_TOKENS, CacheFullError


def test_idle_sequences_make_room_and_nothing_is_wrong(
    tiny_base: str, tiny_checkpoint: Path, uncached: ValueModel
) -> None:
    scorer = small(tiny_base, tiny_checkpoint, 6)
    for seed in (1, 2, 3, 1, 2, 3):
        asked = [query(f"s{seed}", tokens(40 + seed, seed), [1, 2, 3])]
        assert_exact(uncached, asked, scorer.score_queries(asked))
        assert scorer.cache.bytes <= scorer.cache.budget_bytes
    assert scorer.cache.evictions >= 2


def test_a_step_larger_than_the_cache_is_scored_in_parts(
    tiny_base: str, tiny_checkpoint: Path, uncached: ValueModel
) -> None:
    """Running sequences are read again under pressure; the budget holds all the same."""
    scorer = small(tiny_base, tiny_checkpoint, 8)
    for step in range(3):
        asked = [query(f"s{i}", tokens(30 + 9 * i, i) + tokens(step, 7), tokens(5, step)) for i in range(6)]
        assert_exact(uncached, asked, scorer.score_queries(asked))
        assert scorer.cache.bytes <= scorer.cache.budget_bytes


def test_what_can_never_fit_is_an_error_and_costs_the_others_nothing(
    tiny_base: str, tiny_checkpoint: Path, uncached: ValueModel
) -> None:
    scorer = small(tiny_base, tiny_checkpoint, 4)
    with pytest.raises(CacheFullError, match="64 tokens"):
        scorer.score_queries([query("giant", tokens(100), [1])])
    asked = [query("a", tokens(33), [3, 4])]
    assert_exact(uncached, asked, scorer.score_queries(asked))
    with pytest.raises(CheckpointError, match="too small"):
        small(tiny_base, tiny_checkpoint, 0)


def test_only_sequences_that_come_back_count_as_evicted(tiny_base: str, tiny_checkpoint: Path) -> None:
    """Would catch a counter that rises with every sequence that has simply ended."""
    scorer = small(tiny_base, tiny_checkpoint, 3)
    for number, name in enumerate("abc"):
        scorer.score_queries([query(name, tokens(29, number), [1])])
    assert len(scorer.cache) == 1 and scorer.cache.evictions == 0
    scorer.score_queries([query("a", tokens(29, 0), [1])])
    scorer.score_queries([query("a", [*tokens(29, 0), 1], [1])])
    assert scorer.cache.evictions == 1


def test_what_sequences_begin_with_is_read_once(
    ragged: ExactScorer, uncached: ValueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choices of one prompt in one step, and a later prompt under the same system prompt."""
    seen = count_tokens(ragged, monkeypatch)
    prompt = tokens(3 * BLOCK_TOKENS + 5)
    choices = [query(f"{child}_a", [*prompt, child], [1, 2]) for child in range(4)]
    assert_exact(uncached, choices, ragged.score_queries(choices))
    assert sum(seen) == 3 * BLOCK_TOKENS + 4 * (6 + 2)
    seen.clear()
    later = [query("b", prompt[: 2 * BLOCK_TOKENS] + tokens(7, 9), [4])]
    assert_exact(uncached, later, ragged.score_queries(later))
    assert sum(seen) == 7 + 1
    assert ragged.cache.shared_tokens == 3 * 3 * BLOCK_TOKENS + 2 * BLOCK_TOKENS


def test_what_is_read_under_a_salt_is_shared_with_nobody_else(
    ragged: ExactScorer, uncached: ValueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else how soon an answer comes tells what others have asked before; vLLM keeps its prefix cache apart so."""
    seen = count_tokens(ragged, monkeypatch)
    prompt, long = tokens(2 * BLOCK_TOKENS + 5), 2 * BLOCK_TOKENS + 5 + 1
    for name, salt, read in (("a", "", long), ("b", "x", long), ("c", "x", 6), ("d", "x\ud800", long), ("e", "", 6)):
        seen.clear()
        asked = [query(name, prompt, [1], salt)]
        assert_exact(uncached, asked, ragged.score_queries(asked))
        assert sum(seen) == read, (name, salt)
    seen.clear()
    other = tokens(2 * BLOCK_TOKENS + 5, 1)
    together = [query("f", other, [1], "x"), query("g", other, [1], "y"), query("h", other, [1], "y")]
    assert_exact(uncached, together, ragged.score_queries(together))
    assert sum(seen) == 2 * 2 * BLOCK_TOKENS + 3 * 6, "in one step, too"


def test_shared_blocks_outlive_whoever_wrote_them(scorer: ExactScorer, uncached: ValueModel) -> None:
    prompt = tokens(40)
    for name, end in (("a", [1]), ("b", [2, 3]), ("c", [4])):
        asked = [query(name, prompt + end, [5, 6])]
        assert_exact(uncached, asked, scorer.score_queries(asked))
        scorer.cache.forget(name)
    assert len(scorer.cache) == 0


def test_reading_ahead_leaves_little_for_the_step(
    ragged: ExactScorer, uncached: ValueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = tokens(5 * BLOCK_TOKENS + 3)
    for stop in (20, 50, len(prompt)):
        ragged.read([Prefix("a", prompt[:stop])])
    seen = count_tokens(ragged, monkeypatch)
    asked = [query("a", prompt, [7, 8])]
    assert_exact(uncached, asked, ragged.score_queries(asked))
    assert seen == [3 + 2]


def test_a_decoding_step_is_one_forward(ragged: ExactScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a forward of its own for a token that fills a block."""
    texts = [tokens(20 + i, i) for i in range(4)]
    ragged.score_queries([query(f"s{i}", list(text), [1, 2]) for i, text in enumerate(texts)])
    seen = count_tokens(ragged, monkeypatch)
    for step in range(2 * BLOCK_TOKENS):
        for text in texts:
            text.append(step)
        ragged.score_queries([query(f"s{i}", list(text), [1, 2]) for i, text in enumerate(texts)])
    assert seen == [4 * (1 + 2)] * 2 * BLOCK_TOKENS
