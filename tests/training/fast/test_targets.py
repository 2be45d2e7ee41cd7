"""What a probe is fitted to and judged by, against plain loops and on distributions of any shape."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.fast.targets import (
    advantage_loss,
    advantages_along,
    distillation_weights,
    expected_gain,
    explained_advantage,
    scale_at_kl,
    weighted_square,
)
from valuemodels.kl_budget import kl_divergence
from valuemodels.tilting import advantages_of

SEEDS = st.integers(0, 2**31)
SCALES = st.floats(0.05, 20.0)
F64 = torch.float64


def some_positions(seed: int, rows: int = 6, k: int = 8, absent: int = 3) -> tuple[Tensor, Tensor]:
    """Base log-probabilities [rows, k], some rows with fewer candidates, and centred values [rows, k, 2]."""
    dice = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, k, generator=dice, dtype=F64)
    for row in range(absent):
        logits[row, k - 1 - row :] = float("-inf")
    base = logits.log_softmax(-1)
    values = advantages_of(torch.randn(rows, k, 2, generator=dice, dtype=F64), base)
    return base, values.where((base > float("-inf"))[..., None], 0.0)


def plain_advantages(values: list[float], final: float, lambda_: float) -> list[float]:
    """The definition, in a loop over the future."""
    worth = [*values, final]
    deltas = [after - before for before, after in pairwise(worth)]
    return [sum(lambda_**step * delta for step, delta in enumerate(deltas[t:])) for t in range(len(values))]


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.floats(0, 1), st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_advantages_are_those_of_the_definition(seed: int, lambda_: float, lengths: list[int]) -> None:
    dice = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(lengths), 2, generator=dice, dtype=F64)
    final = torch.randn(len(lengths), 2, generator=dice, dtype=F64)
    reply = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    place = torch.cat([torch.arange(length) for length in lengths])
    found = advantages_along(values, final, reply, place, lambda_)
    start = 0
    for number, length in enumerate(lengths):
        for objective in range(2):
            own = values[start : start + length, objective].tolist()
            expected = plain_advantages(own, float(final[number, objective]), lambda_)
            assert found[start : start + length, objective].tolist() == pytest.approx(expected, abs=1e-9)
        start += length


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_lambda_1_gives_the_rest_of_the_reward(seed: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    values, final = torch.randn(8, 1, generator=dice), torch.randn(2, 1, generator=dice)
    reply, place = torch.tensor([0] * 5 + [1] * 3), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    found = advantages_along(values, final, reply, place, 1.0)
    torch.testing.assert_close(found, final[reply] - values, atol=1e-5, rtol=0)


def test_loss_is_least_at_the_expected_advantage() -> None:
    """By gradient descent on a table, with many samples of one position."""
    base = torch.tensor([0.0, -0.5, -1.0, -2.0], dtype=F64).log_softmax(-1)
    p = base.exp()
    true = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=F64)
    true = true - (p * true).sum()
    dice = torch.Generator().manual_seed(0)
    chosen = torch.multinomial(p, 40000, replacement=True, generator=dice)
    noisy = true[chosen] + 0.5 * torch.randn(40000, generator=dice, dtype=F64)
    table = torch.zeros(4, dtype=F64, requires_grad=True)
    optimizer = torch.optim.LBFGS([table], max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        centred = (table - (p * table).sum())[None, :, None].expand(40000, -1, -1)
        loss = advantage_loss(centred, p.expand(40000, -1), chosen, noisy[:, None]).sum()
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = (table - (p * table).sum()).detach()
    torch.testing.assert_close(found, true, atol=0.05, rtol=0)


def test_expected_gain_is_what_small_tilts_gain() -> None:
    """Against the exact gain of tilts whose advantages are true, at a small cost."""
    base, values = some_positions(5, rows=400, absent=0)
    dice = torch.Generator().manual_seed(1)
    true = values[..., :1]
    chosen = torch.multinomial(base.exp(), 300, replacement=True, generator=dice)
    picked = true[..., 0].gather(1, chosen).flatten()[:, None]
    repeated = true.repeat_interleave(300, dim=0)
    tokens, nats = 64, 0.001
    found = expected_gain(repeated, base.exp().repeat_interleave(300, dim=0), chosen.flatten(), picked, nats, tokens)
    scale = scale_at_kl(true[..., 0], base, nats / tokens)
    tilted = torch.log_softmax(base + scale * true[..., 0], dim=-1)
    exact = tokens * (tilted.exp() * true[..., 0]).sum(-1).mean()
    assert float(found) == pytest.approx(float(exact), rel=0.05)


def test_a_probe_that_tells_nothing_apart_gains_nothing() -> None:
    nothing = torch.zeros(3, 4, 2)
    found = expected_gain(nothing, torch.full((3, 4), 0.25), torch.zeros(3, dtype=torch.long), torch.ones(3, 2), 5, 64)
    assert found.tolist() == [0.0, 0.0]


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0, 1))
def test_weights_sum_to_one_and_give_absent_candidates_nothing(seed: int, mass_floor: float) -> None:
    mass = some_positions(seed)[0].exp()
    weights = distillation_weights(mass, mass_floor)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(mass), dtype=weights.dtype))
    assert (weights[mass == 0] == 0).all()
    assert (weights >= mass_floor * 0.999 / mass.shape[1])[mass > 0].all()


def test_weighted_square_is_a_mean_over_positions() -> None:
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [2.0, 0.0]]])
    weights = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    torch.testing.assert_close(weighted_square(values, weights), torch.tensor([(7.0 + 2.0) / 2, (13.0 + 0.0) / 2]))


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_explained_variance_is_1_for_the_exact_values_and_0_for_nothing(seed: int) -> None:
    base, values = some_positions(seed)
    torch.testing.assert_close(explained_advantage(values, values, base.exp()), torch.ones(2, dtype=F64))
    nothing = explained_advantage(torch.zeros_like(values), values, base.exp())
    torch.testing.assert_close(nothing, torch.zeros(2, dtype=F64))


def test_explained_variance_of_values_that_do_not_vary_is_no_number() -> None:
    base, _ = some_positions(0)
    nothing = torch.zeros(*base.shape, 1, dtype=F64)
    assert explained_advantage(nothing, nothing, base.exp()).isnan().all()


@settings(deadline=None, max_examples=30)
@given(SEEDS, SCALES)
def test_scale_is_found_again_from_its_cost(seed: int, scale: float) -> None:
    base, values = some_positions(seed)

    def cost(s: float) -> float:
        return float(kl_divergence(torch.log_softmax(base + s * values[..., 0], -1), base).mean())

    again = cost(scale_at_kl(values[..., 0], base, cost(scale)))
    assert again == pytest.approx(cost(scale), rel=1e-9, abs=1e-12)


def test_cost_that_no_tilt_reaches_gives_the_largest_scale() -> None:
    base, values = some_positions(0)
    assert scale_at_kl(values[..., 0], base, target=100.0) == 1e6
    assert scale_at_kl(torch.zeros_like(base), base, target=0.1) == 1e6
