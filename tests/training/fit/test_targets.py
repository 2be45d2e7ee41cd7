"""What the value model regresses on."""

import math
from collections import Counter
from itertools import count, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.fit.targets import Leaf, explained_variance, masked_mse, standardise, tree_targets

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


@st.composite
def trees(draw: st.DrawFn) -> list[Leaf]:
    """Trees of up to three layers, whose leaves end in any of them."""
    leaves: list[Leaf] = []
    numbers = count(1)

    def grow(nodes: tuple[int, ...], ends: tuple[int, ...], log_ratios: tuple[float, ...]) -> None:
        if nodes and (len(nodes) == 3 or draw(st.booleans())):
            leaves.append(Leaf(nodes, ends, log_ratios))
            return
        for _ in range(draw(st.integers(1, 3))):
            segment = draw(st.lists(st.floats(-2, 2), min_size=1, max_size=4))
            grow((*nodes, next(numbers)), (*ends, len(log_ratios) + len(segment)), (*log_ratios, *segment))

    grow((), (), ())
    return leaves


def mean_return(leaves: list[Leaf], rewards: list[float], zeta: float, prefix: tuple[int, ...], tokens: int) -> float:
    """What the text after so many tokens, on the way down `prefix`, is worth: straight from the definition."""
    below = [(leaf, r) for leaf, r in zip(leaves, rewards, strict=True) if leaf.nodes[: len(prefix)] == prefix]
    if len(below) == 1 and below[0][0].nodes == prefix:
        return below[0][1] - zeta * sum(below[0][0].log_ratios[tokens:])
    children = sorted({leaf.nodes[: len(prefix) + 1] for leaf, _ in below})
    end = below[0][0].ends[len(prefix) - 1] if prefix else 0
    rest = sum(below[0][0].log_ratios[tokens:end])
    return sum(mean_return(leaves, rewards, zeta, child, end) for child in children) / len(children) - zeta * rest


@given(trees(), st.data(), st.floats(0, 2))
def test_a_position_is_worth_what_follows_it_on_average(leaves: list[Leaf], data: st.DataObject, zeta: float) -> None:
    rewards = data.draw(st.lists(FINITE, min_size=len(leaves), max_size=len(leaves)))
    found = tree_targets(leaves, torch.tensor(rewards, dtype=torch.float64)[:, None], zeta)
    for leaf, learned in zip(leaves, found, strict=True):
        for position, target in enumerate(learned.targets[:, 0].tolist()):
            depth = sum(end < position for end in leaf.ends)
            prefix = leaf.nodes[: depth + 1] if position else ()
            assert target == pytest.approx(mean_return(leaves, rewards, zeta, prefix, position), abs=1e-9)


def counted(leaves: list[Leaf], left_out: set[int]) -> Counter[tuple[int, int]]:
    """How often each position counts: (the node in whose segment it lies, tokens up to it); (0, 0) is the prompt's."""
    found = tree_targets(leaves, torch.zeros(len(leaves), 1), 0.0, left_out)
    times: Counter[tuple[int, int]] = Counter()
    for leaf, learned in zip(leaves, found, strict=True):
        for position in learned.counts.nonzero().flatten().tolist():
            node = leaf.nodes[sum(end < position for end in leaf.ends)] if position else 0
            times[node, position] += 1
    return times


@given(trees())
def test_everything_counts_once_and_a_fork_once_for_each_of_its_branches(leaves: list[Leaf]) -> None:
    branches: dict[int, set[int]] = {}
    for leaf in leaves:
        for parent, node in zip((0, *leaf.nodes), leaf.nodes, strict=False):
            branches.setdefault(parent, set()).add(node)
    times = counted(leaves, set())
    for leaf in leaves:
        assert times[0, 0] == len(branches[0])
        for node, start, end in zip(leaf.nodes, (0, *leaf.ends[:-1]), leaf.ends, strict=True):
            assert [times[node, position] for position in range(start + 1, end)] == [1] * (end - start - 1)
            assert times[node, end] == len(branches.get(node, {node}))


@given(trees(), st.data())
def test_what_is_left_out_does_not_count_and_changes_nothing_else(leaves: list[Leaf], data: st.DataObject) -> None:
    bottom = [leaf for leaf in leaves if len(leaf.nodes) == 3]
    left_out = {leaf.nodes[-1] for leaf in bottom if data.draw(st.booleans())}
    before, after = counted(leaves, set()), counted(leaves, left_out)
    assert not left_out & {node for node, _ in after}
    inside = {at for at in before if at[0] not in left_out}
    assert all(0 < after[at] <= before[at] for at in inside if at != (0, 0))


def test_replies_that_share_nothing_have_their_final_reward_everywhere_but_after_the_prompt() -> None:
    leaves = [Leaf((1,), (2,), (0.0, 0.0)), Leaf((2,), (1,), (0.0,))]
    first, second = tree_targets(leaves, torch.tensor([[1.0, -2.0], [0.5, 3.0]]), zeta=0.3)
    assert first.targets.tolist() == [[0.75, 0.5], [1.0, -2.0], [1.0, -2.0]]
    assert second.targets.tolist() == [[0.75, 0.5], [0.5, 3.0]]
    assert first.counts.all() and second.counts.all()


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
    targets = rewards[:, None]
    errors = {value: masked_mse(torch.full((3, 1, 1), value), targets, mask).item() for value in (0.3, 0.5, 0.7)}
    assert min(errors, key=errors.__getitem__) == 0.5


def test_explained_variance_is_1_for_the_truth_and_0_for_the_mean() -> None:
    targets = torch.tensor([[1.0, 5.0], [2.0, 5.5], [6.0, 9.0]])
    torch.testing.assert_close(explained_variance(targets, targets), torch.ones(2))
    torch.testing.assert_close(explained_variance(targets.mean(0).expand(3, 2), targets), torch.zeros(2))


def test_targets_of_a_whole_tree_are_the_policys_values() -> None:
    """A tree with every continuation as often as the policy takes it: its plain means are expectations, exactly."""
    vocabulary, length, zeta = 3, 3, 0.4
    dice = torch.Generator().manual_seed(0)
    contexts = [text for tokens in range(length) for text in product(range(vocabulary), repeat=tokens)]
    base = {text: torch.log_softmax(torch.randn(vocabulary, generator=dice).double(), 0) for text in contexts}
    quarters = {text: torch.tensor([2, 1, 1]).double().roll(n) for n, text in enumerate(contexts)}
    reward = {text: torch.randn(2, generator=dice).double() for text in product(range(vocabulary), repeat=length)}

    def value(text: tuple[int, ...]) -> torch.Tensor:
        """E_pi[r - zeta * sum over the tokens after `text` of log pi / pi_ref]."""
        if len(text) == length:
            return reward[text]
        shares = quarters[text] / 4
        after = torch.stack([value((*text, token)) for token in range(vocabulary)])
        return (shares[:, None] * (after - zeta * (shares.log() - base[text])[:, None])).sum(0)

    leaves: list[Leaf] = []
    texts: list[tuple[int, ...]] = []
    numbers = count(1)

    def grow(text: tuple[int, ...], nodes: tuple[int, ...], log_ratios: tuple[float, ...]) -> None:
        if len(text) == length:
            leaves.append(Leaf(nodes, tuple(range(1, length + 1)), log_ratios))
            texts.append(text)
            return
        for token, times in enumerate(quarters[text].int().tolist()):
            for _ in range(times):
                log_ratio = math.log(times / 4) - base[text][token].item()
                grow((*text, token), (*nodes, next(numbers)), (*log_ratios, log_ratio))

    grow((), (), ())
    found = tree_targets(leaves, torch.stack([reward[text] for text in texts]), zeta)
    assert len(leaves) == 4**length
    for text, learned in zip(texts, found, strict=True):
        expected = torch.stack([value(text[:tokens]) for tokens in range(length + 1)])
        torch.testing.assert_close(learned.targets, expected, atol=1e-9, rtol=1e-9)
