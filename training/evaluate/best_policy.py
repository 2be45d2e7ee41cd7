"""How near a tilt comes to the best that any policy could do at its KL. numpy only.

Of all policies that are as far from the base p as a given KL, none expects more of a reward R than
    pi*(y|x) = p(y|x) exp(eta R(y)) / Z(x),
with the eta that leads so far: what KL-regularised training would end in. Its figures come from the base's own replies,
weighed by exp(eta R), and so does the distance to it of a policy pi whose log-ratios are known:
    KL(pi || pi*) = E_pi[log pi/p - eta R] + log Z.
Weighing loses its footing where few replies carry all the weight, so the effective number of replies is told with it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.statistics.bootstrap import Estimate, draws, estimate_of, mean_estimate

Figures = NDArray[np.float64]

ETAS = np.concatenate([[0.0], np.geomspace(0.01, 30.0, 160)])
"""Strengths that the best policy is looked for at, per standard deviation of the base's reward."""


@dataclass(frozen=True, slots=True)
class Nearness:
    """A tilt beside the best policy.

    Attributes:
        kl_nats: from the base to the tilt.
        gain: of the tilt over the base, in standard deviations of the base's reward; best: of the best policy at this
            KL; share: the first in the second.
        gap_nats: KL from the tilt to the nearest of the best policies.
        effective: of the base's replies to a prompt, as many as carry the best policy's weight; the median.
    """

    kl_nats: Estimate
    gain: Estimate
    best: Estimate
    share: Estimate
    gap_nats: Estimate
    effective: float


@dataclass(frozen=True, slots=True)
class Frontier:
    """The best policies, prompt by prompt, each array [prompts, etas].

    Attributes:
        gains: over the base; kl_nats: from it; log_z; effective: replies that carry the weight.
    """

    gains: Figures
    kl_nats: Figures
    log_z: Figures
    effective: Figures

    @classmethod
    def of(cls, rewards: Figures) -> "Frontier":
        """Args: `rewards`: [prompts, replies] of the base's, in standard deviations."""
        scores = ETAS[None, :, None] * rewards[:, None, :]
        top = scores.max(axis=2, keepdims=True)
        weights = np.exp(scores - top)
        total = weights.sum(axis=2, keepdims=True)
        log_z = (top + np.log(total))[:, :, 0] - np.log(rewards.shape[1])
        weights /= total
        expected = (weights * rewards[:, None, :]).sum(axis=2)
        return cls(
            gains=expected - rewards.mean(axis=1, keepdims=True),
            kl_nats=ETAS * expected - log_z,
            log_z=log_z,
            effective=1 / (weights**2).sum(axis=2),
        )


def nearness(base: Figures, rewards: Figures, kl_nats: Figures) -> Nearness:
    """Set a tilt beside the best policies.

    Args:
        base: [prompts, replies] rewards of the base's, in its standard deviations.
        rewards: [prompts, samples] of the tilt's; kl_nats: from the base to it, as each of them has it, without bias.
    """
    frontier = Frontier.of(base)
    kl, level, plain = kl_nats.mean(axis=1), rewards.mean(axis=1), base.mean(axis=1)
    gains = level - plain
    # [prompts, etas] KL from the tilt to each of the best policies.
    gaps = kl[:, None] - ETAS * level[:, None] + frontier.log_z
    drawn = draws(len(kl))
    best = np.array([_best_at(frontier, kl, some) for some in drawn])
    found = _best_at(frontier, kl, np.arange(len(kl)))
    at = int(np.searchsorted(frontier.kl_nats.mean(axis=0), kl.mean()).clip(max=len(ETAS) - 1))
    return Nearness(
        kl_nats=mean_estimate(kl),
        gain=mean_estimate(gains),
        best=estimate_of(found, best),
        share=_share(gains, drawn, found, best),
        gap_nats=estimate_of(gaps.mean(axis=0).min(), np.array([gaps[some].mean(axis=0).min() for some in drawn])),
        effective=float(np.median(frontier.effective[:, at])),
    )


def _best_at(frontier: Frontier, kl_nats: Figures, prompts: NDArray[np.int64]) -> float:
    """The best policies' gain on some prompts where their KL, on average, is the tilt's: one eta for all of them."""
    reached = frontier.kl_nats[prompts].mean(axis=0)
    return float(np.interp(kl_nats[prompts].mean(), reached, frontier.gains[prompts].mean(axis=0)))


def _share(gains: Figures, drawn: NDArray[np.int64], found: float, best: Figures) -> Estimate:
    """No number where there was nothing to gain."""
    if found <= 0 or (best <= 0).any():
        return Estimate(np.nan, np.nan, np.nan)
    return estimate_of(gains.mean() / found, gains[drawn].mean(axis=1) / best)
