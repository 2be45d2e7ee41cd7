"""Finding the scale at which a monotone cost meets its target. Pure Python; no torch, no vllm."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from training.errors import CalibrationError

_FIRST_SLOPE = 1.7
"""d log KL / d log scale where nothing is known yet: 2 for weak tilts, less once a tilt saturates."""

_LARGEST_STEP = math.log(4.0)
_INSIDE = 0.1
"""Of a bracket: how near to its ends a guess may come."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One scale and the KL it was measured to cost, nats a reply."""

    scale: float
    kl_nats: float


def find_scale(
    measure: Callable[[float], float], target: float, tolerance: float, start: float, max_evaluations: int
) -> list[Trial]:
    """Try scales until one costs the target.

    Steps in log space: secants, of a factor of four at most, until trials lie on both sides, and then between these.

    Args:
        measure: the KL, in nats, that a scale costs.
        tolerance: nats; near enough.

    Returns:
        the trials; `matching_trial` of them is the answer.

    Raises:
        CalibrationError: a trial costs nothing at all.
    """
    trials: list[Trial] = []
    scale = start
    for _ in range(max_evaluations):
        trial = Trial(scale, measure(scale))
        if not (math.isfinite(trial.kl_nats) and trial.kl_nats > 0):
            raise CalibrationError(f"scale {scale:g} costs {trial.kl_nats} nats, allowed is a finite number above 0")
        trials.append(trial)
        if abs(trial.kl_nats - target) <= tolerance:
            break
        scale = next_scale(trials, target)
    return trials


def matching_trial(trials: list[Trial], target: float, tolerance: float, objective: str) -> Trial:
    """The trial whose KL is nearest to the target.

    Raises:
        CalibrationError: even that one misses the target by more than the tolerance.
    """
    best = min(trials, key=lambda trial: abs(trial.kl_nats - target))
    if abs(best.kl_nats - target) > tolerance:
        tried = ", ".join(f"{trial.scale:.3g} costs {trial.kl_nats:.2f}" for trial in trials)
        raise CalibrationError(
            f"{objective}: no scale of {len(trials)} costs {target:g} +- {tolerance:g} nats ({tried}); "
            "raise calibrate.max_evaluations, calibrate.tolerance or calibrate.prompts"
        )
    return best


def next_scale(trials: list[Trial], target: float) -> float:
    """The scale to try after these trials."""
    below = [trial for trial in trials if trial.kl_nats < target]
    above = [trial for trial in trials if trial.kl_nats > target]
    if below and above:
        low, high = max(below, key=lambda trial: trial.scale), min(above, key=lambda trial: trial.scale)
        if low.scale < high.scale:  # else noise has turned them round
            return _between(low, high, target)
    nearest = sorted(trials, key=lambda trial: abs(math.log(trial.kl_nats / target)))
    step = math.log(target / nearest[0].kl_nats) / _slope(nearest)
    return nearest[0].scale * math.exp(max(-_LARGEST_STEP, min(_LARGEST_STEP, step)))


def _between(low: Trial, high: Trial, target: float) -> float:
    """Linearly in log space, whatever the slope, and well inside, so that the bracket always shrinks.

    Costs of rewards that feed on themselves (a question asked makes another likelier) rise far more steeply than a
    square.
    """
    share = math.log(target / low.kl_nats) / math.log(high.kl_nats / low.kl_nats)
    share = max(_INSIDE, min(1 - _INSIDE, share))
    return math.exp(math.log(low.scale) + share * math.log(high.scale / low.scale))


def _slope(nearest: list[Trial]) -> float:
    if len(nearest) < 2 or nearest[0].scale == nearest[1].scale:
        return _FIRST_SLOPE
    first, second = nearest[:2]
    slope = math.log(first.kl_nats / second.kl_nats) / math.log(first.scale / second.scale)
    # Noise can flatten or turn a short secant.
    return slope if 0.5 <= slope <= 3.0 else _FIRST_SLOPE
