"""What the value model regresses on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.fit.targets import dense_targets, explained_variance, loss_mask, masked_mse, standardise

FINITE = st.floats(-50, 50, allow_nan=False)


@given(st.lists(st.tuples(FINITE, FINITE), min_size=2, max_size=20), st.floats(0.5, 8))
def test_standardised_rewards_are_linear_inside_the_clip_and_never_beyond_it(
    rewards: list[tuple[float, float]], clip: float
) -> None:
    given_rewards = torch.tensor(rewards, dtype=torch.float64)
    mean, std = torch.tensor([1.0, -3.0], dtype=torch.float64), torch.tensor([2.0, 0.5], dtype=torch.float64)
    result = standardise(given_rewards, mean, std, clip)
    exact = (given_rewards - mean) / std
    assert (result.abs() <= clip).all()
    inside = exact.abs() <= clip
    torch.testing.assert_close(result[inside], exact[inside])
    assert (result[~inside] == clip * exact[~inside].sign()).all()


def test_rewards_standardised_by_their_own_moments_have_mean_0_and_spread_1() -> None:
    rewards = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * 3 + 7
    result = standardise(rewards, rewards.mean(0), rewards.std(0), 10.0)
    torch.testing.assert_close(result.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std(0), torch.ones(2))


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=6), st.integers(0, 3))
def test_loss_is_carried_from_the_last_prompt_token_to_the_last_reply_token(
    shapes: list[tuple[int, int]], padding: int
) -> None:
    lengths = [prompt + reply for prompt, reply in shapes]
    width = max(lengths) + padding
    mask = loss_mask(torch.tensor([prompt for prompt, _ in shapes]), torch.tensor(lengths), width)
    for row, (prompt, reply) in zip(mask.tolist(), shapes, strict=True):
        assert row == [False] * (prompt - 1) + [True] * (reply + 1) + [False] * (width - prompt - reply)


def test_every_position_of_a_reply_has_its_final_reward() -> None:
    mask = torch.tensor([[False, True, True], [True, False, False]])
    targets = dense_targets(torch.tensor([[1.0, -2.0], [0.5, 3.0]]), mask)
    assert targets.tolist() == [[[0, 0], [1, -2], [1, -2]], [[0.5, 3], [0, 0], [0, 0]]]


def test_error_ignores_positions_without_a_loss_even_where_values_are_wild() -> None:
    mask = torch.tensor([[True, False]])
    values = torch.tensor([[[1.0, 3.0], [1e9, float("nan")]]])
    assert masked_mse(values, torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]), mask).item() == pytest.approx(2.5)


def test_gradient_reaches_only_positions_that_carry_a_loss() -> None:
    values = torch.zeros(1, 3, 2, requires_grad=True)
    mask = torch.tensor([[False, True, False]])
    masked_mse(values, torch.ones(1, 3, 2), mask).backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.abs().sum(dim=-1).bool().tolist() == [[False, True, False]]


def test_squared_error_is_least_at_the_mean_over_replies_that_share_a_prefix() -> None:
    rewards = torch.tensor([[2.0], [-1.0], [0.5]])
    mask = torch.ones(3, 1, dtype=torch.bool)
    targets = dense_targets(rewards, mask)
    errors = {value: masked_mse(torch.full((3, 1, 1), value), targets, mask).item() for value in (0.3, 0.5, 0.7)}
    assert min(errors, key=errors.__getitem__) == 0.5


def test_explained_variance_is_1_for_the_truth_and_0_for_the_mean() -> None:
    targets = torch.tensor([[1.0, 5.0], [2.0, 5.5], [6.0, 9.0]])
    torch.testing.assert_close(explained_variance(targets, targets), torch.ones(2))
    torch.testing.assert_close(explained_variance(targets.mean(0).expand(3, 2), targets), torch.zeros(2))
