"""Hybrid scoring: exact among the few that matter, fast between them and the rest, and exact where all are picked."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import TINY_VOCAB
from tests.valuemodels.scoring.kit import scoring_batch, tokens
from valuemodels.contract.guidance import ChoiceName
from valuemodels.contract.policy import GuidancePolicy
from valuemodels.contract.value_config import read_value_config
from valuemodels.models.checkpoint import load_probe, load_value_model
from valuemodels.scoring.exact import ExactScorer
from valuemodels.scoring.fast import FastScorer
from valuemodels.scoring.hybrid import HybridScorer, pick, refine
from valuemodels.scoring.rows import Row
from valuemodels.scoring.scorer import ScoringBatch
from valuemodels.tilting import Candidates, sampling_temperature, select_candidates

POLICY = GuidancePolicy(("warmth", "brevity"))
CHOICE = ChoiceName(0, 0)
COEFFICIENTS = (0.7, -0.4)


@pytest.fixture
def fast(tiny_base: str, tiny_probed_checkpoint: Path) -> FastScorer:
    config = read_value_config(tiny_probed_checkpoint)
    assert config.probe is not None
    return FastScorer(config, config.probe, *load_probe(tiny_probed_checkpoint, tiny_base, device="cpu"))


@pytest.fixture
def exact(tiny_base: str, tiny_probed_checkpoint: Path) -> ExactScorer:
    model = load_value_model(tiny_probed_checkpoint, tiny_base, dtype=torch.float32, device="cpu")
    return ExactScorer(model, cache_bytes=1 << 24)


def batch(rows: int = 3, k: int = 8, sharpness: float = 1.0) -> ScoringBatch:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, TINY_VOCAB, generator=generator) * sharpness
    return scoring_batch(
        select_candidates(logits, torch.full((rows,), k), k, 64),
        torch.randn(rows, 32, generator=generator),
        rows=[Row(i, f"s{i}", "", CHOICE, POLICY.resolve(None), 1.0, tokens(4 + 5 * i, i), []) for i in range(rows)],
        coefficients=COEFFICIENTS,
    )


def advantages(values: Tensor, logits: Tensor) -> Tensor:
    chances = torch.softmax(logits, -1)[..., None]
    return values - (chances * values).sum(1, keepdim=True)


def test_with_room_for_all_candidates_it_is_exact_scoring(fast: FastScorer, exact: ExactScorer) -> None:
    asked = batch(sharpness=0.1)
    found = HybridScorer(fast, exact, most=8).score(asked)
    torch.testing.assert_close(found, exact.score(asked), atol=1e-4, rtol=1e-4)


def test_the_picked_are_exact_and_the_others_fast(fast: FastScorer, exact: ExactScorer) -> None:
    """Catches values put to the wrong candidate, units that are not converted, and a mean that moves."""
    asked, most = batch(), 3
    found = HybridScorer(fast, exact, most).score(asked)
    by_exact = exact.score(asked)
    by_fast = fast.score(asked) * torch.tensor(fast.scales) / torch.tensor(exact.scales)
    places, picked = pick(asked, by_fast, most)
    assert picked.all() and places.shape == (3, most)
    for r in range(3):
        few, rest = places[r], [c for c in range(8) if c not in places[r].tolist()]
        logits = asked.candidates.logits[r : r + 1]
        among = advantages(found[r : r + 1, few], logits[:, few])
        torch.testing.assert_close(among, advantages(by_exact[r : r + 1, few], logits[:, few]), atol=1e-4, rtol=1e-4)
        chances = torch.softmax(logits[0, few], -1)[:, None]
        gap = (chances * (found[r, few] - by_fast[r, few])).sum(0)
        torch.testing.assert_close(found[r, rest], by_fast[r, rest] + gap, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[r, few], by_exact[r, few], atol=1e-4, rtol=1e-4)


def test_who_is_all_but_certain_is_not_read(fast: FastScorer, exact: ExactScorer) -> None:
    asked = batch(sharpness=40.0)
    found = HybridScorer(fast, exact, most=3).score(asked)
    assert len(exact.cache) == 0
    ratio = torch.tensor(fast.scales) / torch.tensor(exact.scales)
    torch.testing.assert_close(found, fast.score(asked) * ratio)


def test_a_likely_candidate_is_picked_before_the_tilt_or_after_it(fast: FastScorer) -> None:
    candidates = Candidates(torch.arange(6)[None], torch.tensor([[3.0, 2.0, -3.0, -3.0, -3.0, float("-inf")]]))
    asked = scoring_batch(candidates, coefficients=(1.0, 0.0))
    values = torch.zeros(1, 6, 2)
    values[0, 3, 0] = 8.0
    values[0, 2, 1] = 50.0  # of no weight
    places, picked = pick(asked, values, most=4)
    assert sorted(places[0][picked[0]].tolist()) == [0, 1, 3]


def test_values_that_are_no_numbers_pick_nothing_and_stay(fast: FastScorer) -> None:
    asked = batch(rows=2)
    values = torch.zeros(2, 8, 2)
    values[1, 2, 0] = torch.nan
    places, picked = pick(asked, values, most=3)
    assert picked[0].any() and not picked[1].any()
    few = Candidates(asked.candidates.token_ids.gather(1, places), torch.where(picked, 0.0, float("-inf")))
    found = refine(values, torch.ones(2, 3, 2), places, few, asked.temperature)
    assert found[0].isfinite().all() and found[1, 2, 0].isnan()


def test_without_hidden_states_it_says_so(fast: FastScorer, exact: ExactScorer) -> None:
    asked = batch()
    bare = scoring_batch(asked.candidates, None, rows=asked.rows)
    with pytest.raises(RuntimeError, match="hidden states"):
        HybridScorer(fast, exact, 3).score(bare)


@given(
    logits=st.lists(st.floats(-6, 6), min_size=2, max_size=9),
    seed=st.integers(0, 2**16),
    most=st.integers(2, 9),
    temperature=st.floats(0, 3),
)
def test_the_picked_keep_the_mean_they_had(logits: list[float], seed: int, most: int, temperature: float) -> None:
    """So that an objective's exact level, which fast values know nothing of, lifts or sinks nobody."""
    candidates = Candidates(torch.arange(len(logits))[None], torch.tensor([sorted(logits, reverse=True)]))
    at = float(sampling_temperature(torch.tensor([temperature])))
    asked = scoring_batch(candidates, coefficients=COEFFICIENTS, temperature=at)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1, len(logits), 2, generator=generator)
    places, picked = pick(asked, values, most)
    few = Candidates(places, torch.where(picked, candidates.logits.gather(1, places), float("-inf")))
    exact = torch.randn(1, places.shape[1], 2, generator=generator) + 5
    found = refine(values, exact, places, few, asked.temperature)
    shifted = refine(values, exact + 3, places, few, asked.temperature)
    chances = torch.softmax(candidates.logits / at, -1)
    torch.testing.assert_close(
        advantages(found, candidates.logits / at), advantages(shifted, candidates.logits / at), atol=1e-4, rtol=1e-4
    )
    chosen = places[0][picked[0]]
    own = chances[0, chosen] / chances[0, chosen].sum()
    rest = [c for c in range(len(logits)) if c not in chosen.tolist()]
    if len(chosen) > 1 and rest:
        mean = (own[:, None] * found[0, chosen]).sum(0)
        before = (own[:, None] * values[0, chosen]).sum(0)
        torch.testing.assert_close(found[0, rest] - mean, values[0, rest] - before, atol=1e-4, rtol=1e-4)
