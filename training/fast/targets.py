"""What a probe is fitted to and judged by: pure functions on tensors. Imports torch alone, and our tilting maths.

A position has candidates a with base probabilities p_a; the probe predicts A_a for all of them at once. Its level does
not count: it is centred on an expectation. What counts is the tilted distribution

    pi_A(a) = softmax over a in C of  log p_a + s A_a

and what the tilt buys: how much it moves the final reward, for its cost KL(pi_A || p).
"""

import math

import torch
from torch import Tensor

from valuemodels.kl_budget import kl_divergence

_LARGEST_SCALE = 1e6
_BISECTIONS = 60


def advantages_along(values: Tensor, final: Tensor, reply: Tensor, place: Tensor, gae_lambda: float) -> Tensor:
    """Generalised advantage estimates of what was sampled (arXiv 1506.02438, gamma = 1, no reward but the last).

        A_t = sum over l >= 0 of lambda^l (V_{t+l+1} - V_{t+l}),    V after the last token = the final reward

    Args:
        values: [positions, objectives] V_t, of whole replies, reply by reply.
        final: [replies, objectives].
        reply: [positions] index of the reply; place: [positions] 0, 1, ... within it.

    Returns:
        [positions, objectives]
    """
    steps = int(place.max()) + 1
    lengths = torch.bincount(reply, minlength=len(final))
    table = final[:, None].repeat(1, steps + 1, 1)
    table[reply, place] = values
    # What stands behind a reply's end is its final reward.
    found = torch.zeros_like(table)
    running = torch.zeros_like(final)
    for step in range(steps - 1, -1, -1):
        delta = table[:, step + 1] - table[:, step]
        running = torch.where((step < lengths)[:, None], delta + gae_lambda * running, 0.0)
        found[:, step] = running
    return found[reply, place]


def advantage_loss(centred: Tensor, probabilities: Tensor, chosen: Tensor, advantages: Tensor) -> Tensor:
    """1/2 Var_pi A - A(chosen) * advantage, a mean over positions: least where A(a) = E[advantage | a].

    It is the squared error of A(chosen) against the advantage, with the sampled square replaced by its expectation.

    Args:
        centred: [positions, k, objectives] A less its mean under `probabilities`.
        probabilities: [positions, k] of the policy that sampled.
        chosen: [positions] which candidate was sampled.
        advantages: [positions, objectives] estimates for it.

    Returns:
        [objectives]
    """
    variance = torch.einsum("pkn,pk->pn", centred.square(), probabilities)
    picked = centred.gather(1, chosen[:, None, None].expand(-1, 1, centred.shape[2]))[:, 0]
    return (0.5 * variance - picked * advantages).mean(0)


def expected_gain(
    centred: Tensor, probabilities: Tensor, chosen: Tensor, advantages: Tensor, nats: float, tokens: int
) -> Tensor:
    """How much tilts that cost `nats` a reply should move the final reward, to first order, without sampling any.

    A small tilt by s A costs s^2 / 2 Var_p A at a position and gains s E[A(chosen) advantage] there; so at a cost of
    `nats` a reply of T positions it gains sqrt(2 nats T) E[A(chosen) advantage] / sqrt(E Var_p A).

    Args:
        centred, probabilities, chosen, advantages: as for `advantage_loss`, of replies of the base.
        tokens: T, of a reply.

    Returns:
        [objectives]; 0 where the probe tells nothing apart.
    """
    variance = torch.einsum("pkn,pk->pn", centred.square(), probabilities).mean(0)
    picked = centred.gather(1, chosen[:, None, None].expand(-1, 1, centred.shape[2]))[:, 0]
    covariance = (picked * advantages).mean(0)
    return torch.where(variance > 0, math.sqrt(2 * nats * tokens) * covariance / variance.clamp_min(1e-30).sqrt(), 0.0)


def distillation_weights(weights: Tensor, mass_floor: float) -> Tensor:
    """How much each labelled candidate's error counts: (1 - f) w_a + f / m, over the m that are there.

    Args:
        weights: [labels, m] of sum 1; 0 where there is no candidate.
        mass_floor: f, 0 to 1.
    """
    present = weights > 0
    uniform = present / present.sum(-1, keepdim=True).clamp_min(1)
    return (1 - mass_floor) * weights + mass_floor * uniform


def weighted_square(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over positions of the weighted sum of squares over candidates.

    Args:
        values: [positions, k, objectives], finite.
        weights: [positions, k].

    Returns:
        [objectives]
    """
    return torch.einsum("pkn,pk->n", values.square(), weights) / len(values)


def explained_advantage(predicted: Tensor, exact: Tensor, weights: Tensor) -> Tensor:
    """1 - E[(A - V)^2] / E[V^2] under the weights: 1 is perfect, 0 no better than to predict nothing.

    Args:
        predicted, exact: [positions, k, objectives], finite advantages.
        weights: [positions, k].

    Returns:
        [objectives]; NaN where the exact values do not vary.
    """
    return 1 - weighted_square(predicted - exact, weights) / weighted_square(exact, weights)


def scale_at_kl(advantages: Tensor, base_logprobs: Tensor, target: float) -> float:
    """The scale at which tilts by advantages cost `target` nats a position on average.

    The mean cost does not fall with the scale, so it is bisected.

    Args:
        advantages, base_logprobs: [positions, k].

    Returns:
        a scale of 0 or more; the largest allowed, 1e6, where no tilt costs as much.
    """

    def cost(scale: float) -> float:
        tilted = torch.log_softmax(base_logprobs + scale * advantages, dim=-1)
        return float(kl_divergence(tilted, base_logprobs).mean())

    low, high = 0.0, 1.0
    while cost(high) < target:
        if high >= _LARGEST_SCALE:
            return _LARGEST_SCALE
        low, high = high, min(2 * high, _LARGEST_SCALE)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) < target else (low, middle)
    return high
