"""What a value model regresses on: pure functions on tensors.

The target of a position of a rollout tree is what its prefix is worth under the policy that sampled (MAVIS, arXiv
2508.13415):

    y(leaf) = clip((r - mean) / std, -c, c)
    y(node) = mean over its children of  y(child) - zeta * sum over the child's segment of log pi / pi_ref

and inside of a segment, y(node at its end) less zeta times the log-ratios of the segment's tokens that follow. So the
reward pays for the tokens that are still to come, and for no others. The mean and std are those of the base's replies.
Replies that share nothing are a tree of one layer; with zeta = 0 every position then has its reply's final reward.
Imports torch alone.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def standardise(rewards: Tensor, mean: Tensor, std: Tensor, clip: float) -> Tensor:
    """Rewards in standard deviations of the base's reward.

    Args:
        rewards: [replies, objectives], in the rewards' own units.
        mean, std: [objectives].

    Returns:
        [replies, objectives], within -clip .. clip.
    """
    return ((rewards - mean) / std).clamp(-clip, clip)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A reply as a path of a rollout tree.

    Attributes:
        nodes: from the root's child down to the leaf, by numbers that are their own in the tree; none is 0, the root.
        ends: how many tokens the reply has at the end of each node's segment.
        log_ratios: log pi / pi_ref of every token.
    """

    nodes: tuple[int, ...]
    ends: tuple[int, ...]
    log_ratios: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PathTargets:
    """What is learned of one reply, at each of its 1 + tokens positions, the first being after the prompt.

    Attributes:
        targets: [positions, objectives]; counts: [positions] bool, False where another reply has the same position.
    """

    targets: Tensor
    counts: Tensor


def tree_targets(
    leaves: Sequence[Leaf], rewards: Tensor, zeta: float | Tensor, left_out: Collection[int] = ()
) -> list[PathTargets]:
    """The targets of every leaf of one tree.

    A segment counts in the first leaf below its node, and with it the position that it begins at: so a fork counts once
    for each of its branches, and all else once.

    Args:
        rewards: [leaves, objectives], standardised.
        zeta: what a nat costs, in standard deviations of the base's reward; or [objectives], what it costs each.
        left_out: nodes whose segments do not count.
    """
    prices = torch.as_tensor(zeta, dtype=rewards.dtype)
    worth = _worth(leaves, rewards, prices)
    seen = set(left_out)
    found = []
    for leaf in leaves:
        spent = torch.tensor([0.0, *leaf.log_ratios], dtype=rewards.dtype).cumsum(0)
        targets = rewards.new_zeros(len(spent), rewards.shape[1])
        counts = torch.zeros(len(spent), dtype=torch.bool)
        targets[0] = worth[_ROOT]
        for node, start, end in _segments(leaf):
            ahead = spent[end] - spent[start + 1 : end + 1]
            targets[start + 1 : end + 1] = worth[node] - prices * ahead[:, None]
            counts[start : end + 1] |= node not in seen
            seen.add(node)
        found.append(PathTargets(targets, counts))
    return found


_ROOT = 0


def _segments(leaf: Leaf) -> Iterator[tuple[int, int, int]]:
    """Each node, and between which token counts its segment lies."""
    return zip(leaf.nodes, (0, *leaf.ends[:-1]), leaf.ends, strict=True)


def _worth(leaves: Sequence[Leaf], rewards: Tensor, prices: Tensor) -> dict[int, Tensor]:
    """y of every node, bottom-up."""
    cost: dict[int, Tensor] = {}
    children: dict[int, list[int]] = {}
    worth: dict[int, Tensor] = {leaf.nodes[-1]: own for leaf, own in zip(leaves, rewards, strict=True)}
    for leaf in leaves:
        for parent, (node, start, end) in zip((_ROOT, *leaf.nodes), _segments(leaf), strict=False):
            if node not in cost:
                cost[node] = prices * sum(leaf.log_ratios[start:end])
                children.setdefault(parent, []).append(node)

    def of(node: int) -> Tensor:
        known = worth.get(node)
        if known is None:
            known = worth[node] = torch.stack([of(child) - cost[child] for child in children[node]]).mean(0)
        return known

    of(_ROOT)
    return worth


def masked_mse(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the positions and objectives that carry a loss.

    Args:
        values, targets: [batch, tokens, objectives].
        mask: [batch, tokens, objectives] or [batch, tokens], True = carries a loss.

    Returns:
        a scalar, differentiable in `values`; 0 where nothing carries a loss.
    """
    errors = (values[mask] - targets[mask]).square()
    return errors.sum() / max(errors.numel(), 1)


def explained_variance(values: Tensor, targets: Tensor) -> Tensor:
    """1 - MSE / variance of the targets, for each objective: 1 is perfect, 0 no better than the targets' own mean.

    Args:
        values, targets: [positions, objectives].

    Returns:
        [objectives]; NaN where the targets do not vary.
    """
    return 1 - (values - targets).square().mean(dim=0) / targets.var(dim=0, correction=0)
