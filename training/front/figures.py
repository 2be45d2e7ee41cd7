"""What the methods are worth on one group of objectives, against each other. No torch, no vllm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluate.slider_table import distinct_share
from training.front.mixes import MixGroup
from training.rollouts.measured import Figures, Measured
from training.statistics.bootstrap import Estimate, estimate_of, mean_estimate
from training.statistics.fronts import of_each, resampled_means

DISTINCT = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Point:
    """One mix.

    Attributes:
        shares: of the mix.
        shifts: objective -> its reward against the base's, in standard deviations of the base's reward.
    """

    shares: Mapping[str, float]
    shifts: Mapping[str, Estimate]
    kl_nats: Estimate
    perplexity: float


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """One method on one group of objectives, over all its mixes.

    Attributes:
        hypervolume, mip: see `training.statistics.fronts`; hypervolume_ahead, mip_ahead: this project's less its own,
            on the same prompts, None for this project's.
        kl_nats: a reply; perplexity: of the replies, by the base; distinct: runs of 1, 2, 3 words that are different.
        tokens: a reply; passes: see `Method`, of the mix that takes most; tokens_per_s: 0 where it was not measured.
    """

    method: str
    points: Sequence[Point]
    hypervolume: Estimate
    mip: Estimate
    hypervolume_ahead: Estimate | None
    mip_ahead: Estimate | None
    kl_nats: Estimate
    perplexity: float
    distinct: Sequence[float]
    tokens: float
    passes: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """All methods on one group; the first of them is the base, the second this project's."""

    objectives: Sequence[str]
    methods: Sequence[MethodFigures]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one method made of a group's mixes, mix by mix."""

    method: str
    passes: float
    by_mix: Sequence[Measured]


def group_figures(group: MixGroup, answers: Sequence[Answers], stds: Mapping[str, float]) -> GroupFigures:
    """Measure all methods on the same draws of prompts.

    Args:
        answers: the base's first, then this project's, which the others are set against.
        stds: objective -> standard deviation of the base's reward.
    """
    base = answers[0].by_mix[0]
    shares = np.array([[mix.shares[name] for name in group.objectives] for mix in group.mixes])
    drawn = []
    for each in answers:
        shifts = np.stack([_shifts(found, base, group.objectives, stds) for found in each.by_mix])
        drawn.append((shifts, *of_each(resampled_means(shifts), shares)))
    _, own_volumes, own_products = drawn[min(1, len(drawn) - 1)]
    found = []
    for place, (each, (shifts, volumes, products)) in enumerate(zip(answers, drawn, strict=True)):
        is_own = place == 1
        found.append(
            MethodFigures(
                method=each.method,
                points=[_point(group, at, of_mix, shifts[at]) for at, of_mix in enumerate(each.by_mix)],
                hypervolume=estimate_of(volumes[0], volumes[1:]),
                mip=estimate_of(products[0], products[1:]),
                hypervolume_ahead=None if is_own else _ahead(own_volumes, volumes),
                mip_ahead=None if is_own else _ahead(own_products, products),
                kl_nats=mean_estimate(np.mean([of_mix.kl_nats.mean(axis=1) for of_mix in each.by_mix], axis=0)),
                perplexity=_perplexity(each.by_mix),
                distinct=[float(np.mean([distinct_share(m.texts, n) for m in each.by_mix])) for n in DISTINCT],
                tokens=float(np.mean([of_mix.tokens.mean() for of_mix in each.by_mix])),
                passes=each.passes,
                tokens_per_s=float(np.mean([of_mix.tokens_per_s for of_mix in each.by_mix])),
            )
        )
    return GroupFigures(group.objectives, found)


def _ahead(own: Figures, other: Figures) -> Estimate:
    return estimate_of(own[0] - other[0], own[1:] - other[1:])


def _shifts(found: Measured, base: Measured, objectives: Sequence[str], stds: Mapping[str, float]) -> Figures:
    """[prompts, objectives]"""
    columns = [(found.rewards[name].mean(axis=1) - base.rewards[name].mean(axis=1)) / stds[name] for name in objectives]
    return np.stack(columns, axis=1)


def _point(group: MixGroup, at: int, found: Measured, shifts: Figures) -> Point:
    estimates = {name: mean_estimate(shifts[:, place]) for place, name in enumerate(group.objectives)}
    return Point(group.mixes[at].shares, estimates, mean_estimate(found.kl_nats), found.perplexity)


def _perplexity(by_mix: Sequence[Measured]) -> float:
    logprobs = sum(float(found.base_logprobs.sum()) for found in by_mix)
    return float(np.exp(-logprobs / sum(float(found.tokens.sum()) for found in by_mix)))
