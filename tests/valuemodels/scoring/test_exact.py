"""Cached scoring equals an uncached forward of prefix + candidate, whatever the cache went through."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2Model, MistralConfig, MistralModel

from tests.conftest import TINY_VOCAB
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.value_config import BackboneConfig, ValueConfig
from valuemodels.models.checkpoint import load_value_model
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.exact import READ_TOKENS, ExactScorer, Prefix, Query
from valuemodels.scoring.kv_blocks import BLOCK_TOKENS, CacheFullError

TOLERANCE = 1e-4


@pytest.fixture
def scorer(tiny_base: str, tiny_checkpoint: Path) -> ExactScorer:
    model = load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu")
    return ExactScorer(model, cache_bytes=1 << 24)


@pytest.fixture(scope="module")
def uncached(tiny_base: str, tiny_checkpoint: Path) -> ValueModel:
    return load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu")


def tokens(count: int, seed: int = 0) -> list[int]:
    return torch.randint(TINY_VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def query(name: str, prefix: list[int], candidates: list[int]) -> Query:
    return Query(name, prefix, torch.tensor(candidates, dtype=torch.int64))


def assert_exact(model: ValueModel, queries: list[Query], values: list[torch.Tensor]) -> None:
    for asked, found in zip(queries, values, strict=True):
        rows = torch.tensor([[*asked.token_ids, candidate] for candidate in asked.candidates.tolist()])
        expected = model(rows)[:, -1] if len(rows) else torch.empty(0, 2)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_ragged_batches_over_many_steps_score_as_if_uncached(scorer: ExactScorer, uncached: ValueModel) -> None:
    prefixes = {f"s{i}": tokens(1 + 7 * i, i) for i in range(6)}
    for step in range(5):
        queries = [query(name, list(p), tokens(1 + (len(p) + step) % 5, step)) for name, p in prefixes.items()]
        assert_exact(uncached, queries, scorer.score_queries(queries))
        for i, prefix in enumerate(prefixes.values()):
            prefix.extend(tokens(1 + (i + step) % 3, 99 + step))


def test_a_prompt_in_chunks_gives_the_values_of_the_whole_prompt(scorer: ExactScorer, uncached: ValueModel) -> None:
    prompt = tokens(50)
    for stop in (1, 2, 17, 18, 50):
        queries = [query("a", prompt[:stop], [3, 4, 5])]
        assert_exact(uncached, queries, scorer.score_queries(queries))


def test_a_prompt_longer_than_the_prefill_chunk_is_exact(scorer: ExactScorer, uncached: ValueModel) -> None:
    queries = [query("long", tokens(2 * READ_TOKENS + 70), [1, 2]), query("short", tokens(4), [5])]
    assert_exact(uncached, queries, scorer.score_queries(queries))


def test_scoring_the_same_prefix_again_is_idempotent(scorer: ExactScorer, uncached: ValueModel) -> None:
    asked = [query("a", tokens(20), [7, 8])]
    first = scorer.score_queries(asked)
    again = scorer.score_queries(asked)
    torch.testing.assert_close(first[0], again[0], atol=1e-5, rtol=1e-5)
    assert_exact(uncached, asked, again)


def test_a_reused_name_with_other_tokens_never_sees_the_old_ones(scorer: ExactScorer, uncached: ValueModel) -> None:
    scorer.score_queries([query("a", tokens(30, 1), [3])])
    asked = [query("a", tokens(30, 1)[:10] + tokens(12, 2), [3, 9])]
    assert_exact(uncached, asked, scorer.score_queries(asked))
    shorter = [query("a", tokens(30, 1)[:6], [3, 9])]
    assert_exact(uncached, shorter, scorer.score_queries(shorter))


def test_a_forgotten_sequence_is_read_again_and_exact(scorer: ExactScorer, uncached: ValueModel) -> None:
    scorer.score_queries([query("a", tokens(12), [3])])
    scorer.cache.forget("a")
    asked = [query("a", [*tokens(12), 5], [3, 4])]
    assert_exact(uncached, asked, scorer.score_queries(asked))


def test_rows_without_candidates_only_fill_the_cache(scorer: ExactScorer) -> None:
    values = scorer.score_queries([query("a", tokens(9), []), query("b", tokens(5), [1])])
    assert values[0].shape == (0, 2) and values[1].shape == (1, 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60), st.integers(0, 2)), min_size=1, max_size=12))
@settings(deadline=None, max_examples=25)
def test_any_history_of_prefixes_leaves_values_exact(tiny_base: str, tiny_checkpoint: Path, history: Any) -> None:
    model = load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu")
    reference = load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu")
    block = ExactScorer(model, 1 << 20).cache.shape.bytes_per_block
    scorer = ExactScorer(load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu"), 5 * block)
    for name, length, seed in history:
        asked = [query(name, tokens(length, seed), tokens(3, seed + 7))]
        assert_exact(reference, asked, scorer.score_queries(asked))


def small(tiny_base: str, tiny_checkpoint: Path, blocks: int) -> ExactScorer:
    """A scorer whose cache holds that many blocks."""
    model = load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu")
    block = ExactScorer(model, 1 << 20).cache.shape.bytes_per_block
    return ExactScorer(load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu"), blocks * block)


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


def count_tokens(scorer: ExactScorer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward of the trunk reads from now on."""
    seen: list[int] = []
    forward = scorer.model.backbone.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(scorer.model.backbone, "forward", counting)
    return seen


def test_what_sequences_begin_with_is_read_once(
    scorer: ExactScorer, uncached: ValueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choices of one prompt in one step, and a later prompt under the same system prompt."""
    seen = count_tokens(scorer, monkeypatch)
    prompt = tokens(3 * BLOCK_TOKENS + 5)
    choices = [query(f"{child}_a", [*prompt, child], [1, 2]) for child in range(4)]
    assert_exact(uncached, choices, scorer.score_queries(choices))
    assert sum(seen) == 3 * BLOCK_TOKENS + 4 * (6 + 2)
    seen.clear()
    later = [query("b", prompt[: 2 * BLOCK_TOKENS] + tokens(7, 9), [4])]
    assert_exact(uncached, later, scorer.score_queries(later))
    assert sum(seen) == 7 + 1
    assert scorer.cache.shared_tokens == 3 * 3 * BLOCK_TOKENS + 2 * BLOCK_TOKENS


def test_shared_blocks_outlive_whoever_wrote_them(scorer: ExactScorer, uncached: ValueModel) -> None:
    prompt = tokens(40)
    for name, end in (("a", [1]), ("b", [2, 3]), ("c", [4])):
        asked = [query(name, prompt + end, [5, 6])]
        assert_exact(uncached, asked, scorer.score_queries(asked))
        scorer.cache.forget(name)
    assert len(scorer.cache) == 0


def test_reading_ahead_leaves_little_for_the_step(
    scorer: ExactScorer, uncached: ValueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = tokens(5 * BLOCK_TOKENS + 3)
    for stop in (20, 50, len(prompt)):
        scorer.read([Prefix("a", prompt[:stop])])
    seen = count_tokens(scorer, monkeypatch)
    asked = [query("a", prompt, [7, 8])]
    assert_exact(uncached, asked, scorer.score_queries(asked))
    assert seen == [3 + 2]


@pytest.mark.parametrize("kind", ["gpt2", "mistral"])
def test_other_decoders_score_exactly_too(kind: Any, tiny_config: Callable[..., ValueConfig], tmp_path: Path) -> None:
    """Catches attention details that only Llama happens to share: learned positions, biases, fused projections."""
    torch.manual_seed(0)
    if kind == "gpt2":
        GPT2Model(GPT2Config(vocab_size=TINY_VOCAB, n_embd=32, n_layer=3, n_head=4)).save_pretrained(tmp_path)
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 1}
        config = MistralConfig(vocab_size=TINY_VOCAB, num_hidden_layers=3, sliding_window=None, **sizes)
        MistralModel(config).save_pretrained(tmp_path)
    config = tiny_config(backbone=BackboneConfig(kind="model", model=str(tmp_path), layers=2))
    model, reference = (ValueModel.build(config, "unused") for _ in range(2))
    reference.load_state_dict(model.state_dict())
    scorer = ExactScorer(model, cache_bytes=1 << 24)
    asked = [query("a", tokens(11), [3, 4]), query("b", tokens(3), [9])]
    assert_exact(reference, asked, scorer.score_queries(asked))


def test_a_sliding_window_backbone_is_refused_in_one_sentence(
    tiny_config: Callable[..., ValueConfig], tmp_path: Path
) -> None:
    config = MistralConfig(
        vocab_size=TINY_VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
    )
    MistralModel(config).save_pretrained(tmp_path)
    own = tiny_config(backbone=BackboneConfig(kind="model", model=str(tmp_path)))
    with pytest.raises(CheckpointError, match="sliding_attention"):
        ValueModel.build(own, "unused")
