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
from tests.valuemodels.scoring.kit import assert_exact, query, tokens
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.value_config import BackboneConfig, ValueConfig
from valuemodels.models.checkpoint import load_value_model
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.exact import READ_TOKENS, ExactScorer
from valuemodels.scoring.own_check import kv_shape_of


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
def test_any_history_of_prefixes_leaves_values_exact(
    tiny_base: str, tiny_checkpoint: Path, uncached: ValueModel, history: Any
) -> None:
    """In a cache of five blocks, which some histories fill."""
    model = load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu")
    scorer = ExactScorer(model, 5 * kv_shape_of(model).bytes_per_block)
    for name, length, seed in history:
        asked = [query(name, tokens(length, seed), tokens(3, seed + 7))]
        assert_exact(uncached, asked, scorer.score_queries(asked))


@pytest.mark.parametrize("kind", ["gpt2", "mistral"])
def test_other_decoders_score_exactly_too(
    kind: Any, tiny_base: str, tiny_config: Callable[..., ValueConfig], tmp_path: Path
) -> None:
    """Catches attention details that only Llama happens to share: learned positions, biases, fused projections."""
    torch.manual_seed(0)
    if kind == "gpt2":
        GPT2Model(GPT2Config(vocab_size=TINY_VOCAB, n_embd=32, n_layer=3, n_head=4)).save_pretrained(tmp_path)
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 1}
        config = MistralConfig(vocab_size=TINY_VOCAB, num_hidden_layers=3, sliding_window=None, **sizes)
        MistralModel(config).save_pretrained(tmp_path)
    config = tiny_config(backbone=BackboneConfig(kind="model", model=str(tmp_path), layers=2))
    model, reference = (ValueModel.build(config, tiny_base) for _ in range(2))
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
