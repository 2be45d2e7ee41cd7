"""What a value model regresses on: pure functions on tensors.

With reward r of a finished reply, the target at every position from the last prompt token to the last reply token is

    y = clip((r - mean) / std, -c, c)

the mean and std being those of the base's replies. It is the dense form of E[r | prefix]: the mean of y over replies
that share a prefix is the value of that prefix, and squared error finds it. Imports torch alone.
"""

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


def loss_mask(prompt_lengths: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Which positions carry a loss: the last prompt token and every reply token.

    Args:
        prompt_lengths, lengths: [batch], tokens of the prompt, and of prompt and reply together.

    Returns:
        [batch, width], True = carries a loss.
    """
    position = torch.arange(width)
    return (position >= prompt_lengths[:, None] - 1) & (position < lengths[:, None])


def dense_targets(rewards: Tensor, mask: Tensor) -> Tensor:
    """Give every position that carries a loss its reply's final reward, and every other position 0.

    Args:
        rewards: [batch, objectives], standardised.
        mask: [batch, tokens], True = carries a loss.

    Returns:
        [batch, tokens, objectives]
    """
    return rewards[:, None, :] * mask[:, :, None]


def masked_mse(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the positions that carry a loss, averaged over objectives.

    Args:
        values, targets: [batch, tokens, objectives].
        mask: [batch, tokens], True = carries a loss.

    Returns:
        a scalar, differentiable in `values`.
    """
    return (values[mask] - targets[mask]).square().mean()


def explained_variance(values: Tensor, targets: Tensor) -> Tensor:
    """1 - MSE / variance of the targets, for each objective: 1 is perfect, 0 no better than the targets' own mean.

    Args:
        values, targets: [positions, objectives].

    Returns:
        [objectives]; NaN where the targets do not vary.
    """
    return 1 - (values - targets).square().mean(dim=0) / targets.var(dim=0, correction=0)
