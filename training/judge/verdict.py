"""What a round gained for its cost, and whether it is kept: figures by prompt, resampled together. numpy only.

Rounds are compared at the same cost. The gain is read off at `target` nats, linearly in the root of the KL (see
`training.statistics.equal_kl`), which takes away the little by which calibrated scales miss it. A round's worth is

    E[r] - zeta KL,    a mean over the settings, r in standard deviations of the base's reward

and a round is kept if the lower bound of its worth is not below that of the best round before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.statistics.bootstrap import Estimate, draws, estimate_of

Figures = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SettingByPrompt:
    """One setting of the weights: by prompt, means over its samples.

    Attributes:
        gain: [prompts] over the base's replies at the same seeds; kl_nats: [prompts], a reply.
    """

    gain: Sequence[float]
    kl_nats: Sequence[float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a round is worth.

    Attributes:
        gains: setting -> gain at `target` nats; kl_nats: setting -> what weight 1 did cost.
        worth: of the round; over_first: how much more than the first round's, prompt by prompt.
        gains_over_first: setting -> the same of its gain.
    """

    gains: Mapping[str, Estimate]
    kl_nats: Mapping[str, Estimate]
    worth: Estimate
    over_first: Estimate
    gains_over_first: Mapping[str, Estimate]


def verdict_on(
    round_: Mapping[str, SettingByPrompt], first: Mapping[str, SettingByPrompt], target: float, zeta: float
) -> Verdict:
    """Judge a round, and set it against the first one.

    Args:
        round_, first: setting -> figures, of the same prompts in the same order.
        target: nats a reply; zeta: what one costs.
    """
    own = {name: _at_target(setting, target) for name, setting in round_.items()}
    firsts = {name: _at_target(setting, target) for name, setting in first.items()}
    return Verdict(
        gains={name: _estimate(drawn) for name, drawn in own.items()},
        kl_nats={name: _estimate(_drawn(setting.kl_nats)) for name, setting in round_.items()},
        worth=_estimate(_mean(own) - zeta * target),
        over_first=_estimate(_mean(own) - _mean(firsts)),
        gains_over_first={name: _estimate(own[name] - firsts[name]) for name in own},
    )


def is_kept(worth: Estimate, best: Estimate | None) -> bool:
    """Whether a round takes the place of the best one before; None: there is none."""
    return best is None or worth.low >= best.low


def _mean(by_setting: Mapping[str, Figures]) -> Figures:
    mean: Figures = np.mean(list(by_setting.values()), axis=0)
    return mean


def _at_target(setting: SettingByPrompt, target: float) -> Figures:
    """[1 + resamples] gain at the target, first of all prompts, then of resampled ones."""
    cost = _drawn(setting.kl_nats)
    # A tilt that costs nothing moves nothing.
    factor = np.sqrt(np.divide(target, cost, out=np.zeros_like(cost), where=cost > 0))
    gain: Figures = _drawn(setting.gain) * factor
    return gain


def _drawn(by_prompt: Sequence[float]) -> Figures:
    """[1 + resamples] means: of all prompts, then of resampled ones, the same for every figure."""
    values = np.asarray(by_prompt, dtype=np.float64)
    chosen = draws(len(values))
    return np.concatenate([[values.mean()], values[chosen].mean(axis=1)])


def _estimate(drawn: Figures) -> Estimate:
    return estimate_of(float(drawn[0]), drawn[1:])
