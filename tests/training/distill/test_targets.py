"""What a probe is judged by, on distributions of any shape."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.distill.targets import (
    candidate_weights,
    compare_tilts,
    explained_advantage,
    scale_at_kl,
    tilted_logprobs,
    weighted_square,
)
from valuemodels.tilting import advantages_of, kl_divergence

SEEDS = st.integers(0, 2**31)
SCALES = st.floats(0.05, 20.0)


def some_positions(seed: int, rows: int = 6, k: int = 8, absent: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Base log-probabilities [rows, k], some rows with fewer candidates, and two sets of centred values [rows, k]."""
    dice = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, k, generator=dice, dtype=torch.float64)
    for row in range(absent):
        logits[row, k - 1 - row :] = float("-inf")
    base = logits.log_softmax(-1)
    values = advantages_of(torch.randn(rows, k, 2, generator=dice, dtype=torch.float64), base)
    values = values.where((base > float("-inf"))[..., None], 0.0)
    return base, values[..., 0], values[..., 1]


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0, 1))
def test_weights_sum_to_one_and_give_absent_candidates_nothing(seed: int, mass_floor: float) -> None:
    base, _, _ = some_positions(seed)
    weights = candidate_weights(base, mass_floor)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(base), dtype=weights.dtype))
    assert (weights[base == float("-inf")] == 0).all()
    assert (weights >= mass_floor * 0.999 / base.shape[1])[base > float("-inf")].all()


def test_position_without_candidates_weighs_nothing() -> None:
    assert candidate_weights(torch.full((1, 4), float("-inf")), 0.3).tolist() == [[0.0] * 4]


def test_weighted_square_is_a_mean_over_positions() -> None:
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [2.0, 0.0]]])
    weights = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    torch.testing.assert_close(weighted_square(values, weights), torch.tensor([(7.0 + 2.0) / 2, (13.0 + 0.0) / 2]))


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_explained_variance_is_1_for_the_exact_values_and_0_for_nothing(seed: int) -> None:
    base, exact, other = some_positions(seed)
    values = torch.stack([exact, other], dim=-1)
    torch.testing.assert_close(explained_advantage(values, values, base), torch.ones(2, dtype=torch.float64))
    nothing = explained_advantage(torch.zeros_like(values), values, base)
    torch.testing.assert_close(nothing, torch.zeros(2, dtype=torch.float64))


def test_explained_variance_of_values_that_do_not_vary_is_no_number() -> None:
    base, _, _ = some_positions(0)
    nothing = torch.zeros(*base.shape, 1, dtype=torch.float64)
    assert explained_advantage(nothing, nothing, base).isnan().all()


@settings(deadline=None, max_examples=30)
@given(SEEDS, SCALES)
def test_tilt_is_a_distribution_over_the_candidates(seed: int, scale: float) -> None:
    base, exact, _ = some_positions(seed)
    p = tilted_logprobs(base, scale * exact).exp()
    torch.testing.assert_close(p.sum(-1), torch.ones(len(p), dtype=p.dtype))
    assert (p[base == float("-inf")] == 0).all()


@settings(deadline=None, max_examples=30)
@given(SEEDS, SCALES)
def test_scale_is_found_again_from_its_cost(seed: int, scale: float) -> None:
    base, exact, _ = some_positions(seed)
    cost = float(kl_divergence(tilted_logprobs(base, scale * exact), base).mean())
    found = scale_at_kl(exact, base, cost)
    again = float(kl_divergence(tilted_logprobs(base, found * exact), base).mean())
    assert again == pytest.approx(cost, rel=1e-9, abs=1e-12)


def test_cost_that_no_tilt_reaches_gives_the_largest_scale() -> None:
    base, exact, _ = some_positions(0)
    assert scale_at_kl(exact, base, target=100.0) == 1e6
    assert scale_at_kl(torch.zeros_like(exact), base, target=0.1) == 1e6


@settings(deadline=None, max_examples=30)
@given(SEEDS, SCALES, st.floats(0.1, 10.0), st.sampled_from([1, -1]))
def test_predictions_that_differ_by_a_factor_alone_keep_everything(
    seed: int, scale: float, factor: float, sign: int
) -> None:
    base, exact, _ = some_positions(seed)
    found = compare_tilts(factor * exact, exact, base, sign * scale)
    assert found.gain_kept == pytest.approx(1, abs=1e-6)
    assert found.kl_nats == pytest.approx(0, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(SEEDS, SCALES)
def test_nothing_beats_exact_values_at_equal_cost(seed: int, scale: float) -> None:
    """Would catch a gain or a cost taken under the wrong distribution."""
    base, exact, other = some_positions(seed)
    assert compare_tilts(exact + other, exact, base, scale).gain_kept <= 1 + 1e-6


def test_predictions_of_the_wrong_sign_lose_what_exact_values_gain() -> None:
    base, exact, _ = some_positions(3)
    assert compare_tilts(-exact, exact, base, 1.0).gain_kept < 0


def test_values_that_do_not_vary_have_no_gain_to_keep() -> None:
    base, _, other = some_positions(0)
    assert math.isnan(compare_tilts(other, torch.zeros_like(other), base, 2.0).gain_kept)
