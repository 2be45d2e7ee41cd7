"""What a probe is fitted to and judged by: pure functions on tensors.

A position has candidates a with base probabilities p_a and exact values V_a; the probe predicts A_a for all of them at
once. Neither's level counts: both are centred on the base's expectation. What counts is the tilted distribution

    pi_V(a) = softmax over a of  log p_a + s V_a

and what the tilt buys: its gain E_pi[V] - E_p[V] for its cost KL(pi || p). Imports torch alone, and our tilting maths.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from valuemodels.tilting import kl_divergence

_LARGEST_SCALE = 1e6
_BISECTIONS = 60


@dataclass(frozen=True, slots=True)
class TiltComparison:
    """How well tilts by predictions stand in for tilts by exact values.

    Attributes:
        scale: of the predictions, at which their tilts cost as much KL as the exact ones on average.
        kl_nats: mean KL(exact tilt || predicted tilt) a position, at that scale.
        gain_kept: share of the exact tilts' gain that the predicted ones reach, both measured in exact values; NaN
            where the exact tilts gain nothing.
    """

    scale: float
    kl_nats: float
    gain_kept: float


def candidate_weights(base_logprobs: Tensor, mass_floor: float) -> Tensor:
    """How much each candidate's error counts: (1 - f) p_a + f / k, over a position's k candidates.

    Args:
        base_logprobs: [positions, k], -inf where there is no candidate.
        mass_floor: f, 0 to 1.

    Returns:
        [positions, k], of sum 1; 0 where there is no candidate.
    """
    present = base_logprobs > float("-inf")
    uniform = present / present.sum(-1, keepdim=True).clamp_min(1)
    return (1 - mass_floor) * base_logprobs.exp() + mass_floor * uniform


def weighted_square(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over positions of the weighted sum of squares over candidates.

    Args:
        values: [positions, k, objectives], finite.
        weights: [positions, k].

    Returns:
        [objectives]
    """
    return torch.einsum("pkn,pk->n", values.square(), weights) / len(values)


def explained_advantage(predicted: Tensor, exact: Tensor, base_logprobs: Tensor) -> Tensor:
    """1 - E[(A - V)^2] / E[V^2] under the base's probabilities: 1 is perfect, 0 no better than to predict nothing.

    Args:
        predicted, exact: [positions, k, objectives], finite advantages.
        base_logprobs: [positions, k].

    Returns:
        [objectives]; NaN where the exact values do not vary.
    """
    weights = base_logprobs.exp()
    return 1 - weighted_square(predicted - exact, weights) / weighted_square(exact, weights)


def tilted_logprobs(base_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """log pi: [positions, k], -inf where there is no candidate.

    Args:
        base_logprobs: [positions, k], -inf where there is no candidate.
        advantages: [positions, k], weighted and scaled; finite.
    """
    return torch.log_softmax(base_logprobs + advantages, dim=-1)


def compare_tilts(predicted: Tensor, exact: Tensor, base_logprobs: Tensor, scale: float) -> TiltComparison:
    """Tilt every position by exact values and by predictions, at equal mean cost.

    Args:
        predicted, exact: [positions, k] of one objective, finite advantages.
        base_logprobs: [positions, k].
        scale: of the exact values; negative tilts away from the objective.
    """
    sign = math.copysign(1, scale)
    base, exact, predicted = base_logprobs.double(), sign * exact.double(), sign * predicted.double()
    by_exact = tilted_logprobs(base, abs(scale) * exact)
    matched = scale_at_kl(predicted, base, float(kl_divergence(by_exact, base).mean()))
    by_predicted = tilted_logprobs(base, matched * predicted)
    gain, gain_predicted = ((logprobs.exp() * exact).sum(-1).mean() for logprobs in (by_exact, by_predicted))
    return TiltComparison(
        scale=matched,
        kl_nats=float(kl_divergence(by_exact, by_predicted).mean()),
        gain_kept=float(gain_predicted / gain) if gain > 0 else math.nan,
    )


def scale_at_kl(advantages: Tensor, base_logprobs: Tensor, target: float) -> float:
    """The scale at which tilts by advantages cost `target` nats a position on average.

    The mean cost does not fall with the scale, so it is bisected.

    Args:
        advantages, base_logprobs: [positions, k].

    Returns:
        a scale of 0 or more; the largest allowed, 1e6, where no tilt costs as much.
    """

    def cost(scale: float) -> float:
        return float(kl_divergence(tilted_logprobs(base_logprobs, scale * advantages), base_logprobs).mean())

    low, high = 0.0, 1.0
    while cost(high) < target:
        if high >= _LARGEST_SCALE:
            return _LARGEST_SCALE
        low, high = high, min(2 * high, _LARGEST_SCALE)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) < target else (low, middle)
    return high
