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
class Matched:
    """This project's at no more cost: of its tilts with no more KL and no higher perplexity, that with the highest MIP.

    Attributes:
        method: its name.
        hypervolume_ahead, mip_ahead: its less the other method's, on the same prompts.
    """

    method: str
    hypervolume_ahead: Estimate
    mip_ahead: Estimate


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """One method on one group of objectives, over all its mixes.

    Attributes:
        hypervolume, mip: see `training.statistics.fronts`; hypervolume_ahead, mip_ahead: of this project's first less
            its own, on the same prompts, None for this project's first.
        matched: None for this project's own, and where none of these costs as little.
        kl_nats: a reply; perplexity: of the replies, by the base; distinct: runs of 1, 2, 3 words that are different.
        tokens: a reply; passes: see `Method`, of the mix that takes most; tokens_per_s: 0 where it was not measured.
    """

    method: str
    points: Sequence[Point]
    hypervolume: Estimate
    mip: Estimate
    hypervolume_ahead: Estimate | None
    mip_ahead: Estimate | None
    matched: Matched | None
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
    """What one method made of a group's mixes, mix by mix; `is_ours` of a tilt."""

    method: str
    passes: float
    by_mix: Sequence[Measured]
    is_ours: bool = False

    @property
    def kl_nats(self) -> Figures:
        """[prompts] a reply."""
        found: Figures = np.mean([of_mix.kl_nats.mean(axis=1) for of_mix in self.by_mix], axis=0)
        return found

    @property
    def perplexity(self) -> float:
        logprobs = sum(float(found.base_logprobs.sum()) for found in self.by_mix)
        return float(np.exp(-logprobs / sum(float(found.tokens.sum()) for found in self.by_mix)))

    def costs_no_more_than(self, other: "Answers") -> bool:
        return bool(self.kl_nats.mean() <= other.kl_nats.mean()) and self.perplexity <= other.perplexity


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One method's front on the draws of prompts that all share.

    Attributes:
        shifts: [mixes, prompts, objectives]; volumes, products: [1 + draws], that of all prompts first.
    """

    answers: Answers
    shifts: Figures
    volumes: Figures
    products: Figures

    def ahead_of(self, other: "_Drawn") -> tuple[Estimate, Estimate]:
        """In hypervolume and in MIP."""
        return _less(self.volumes, other.volumes), _less(self.products, other.products)


def group_figures(
    group: MixGroup, answers: Sequence[Answers], base: Measured, stds: Mapping[str, float]
) -> GroupFigures:
    """Measure all methods on the same draws of prompts.

    Args:
        answers: the base's first, then this project's, the first of which the others are set against.
        base: all replies that were drawn from it, whose mean of a prompt is what rewards are told as distances from.
        stds: objective -> standard deviation of the base's reward.
    """
    shares = np.array([[mix.shares[name] for name in group.objectives] for mix in group.mixes])
    drawn = []
    for each in answers:
        shifts = np.stack([_shifts(found, base, group.objectives, stds) for found in each.by_mix])
        drawn.append(_Drawn(each, shifts, *of_each(resampled_means(shifts), shares)))
    own = drawn[min(1, len(drawn) - 1)]
    return GroupFigures(group.objectives, [_method_figures(group, each, own, drawn) for each in drawn])


def _method_figures(group: MixGroup, each: _Drawn, own: _Drawn, drawn: Sequence[_Drawn]) -> MethodFigures:
    answers = each.answers
    volume_ahead, product_ahead = (None, None) if each is own else own.ahead_of(each)
    return MethodFigures(
        method=answers.method,
        points=[_point(group, at, of_mix, each.shifts[at]) for at, of_mix in enumerate(answers.by_mix)],
        hypervolume=estimate_of(each.volumes[0], each.volumes[1:]),
        mip=estimate_of(each.products[0], each.products[1:]),
        hypervolume_ahead=volume_ahead,
        mip_ahead=product_ahead,
        matched=None if answers.is_ours else _matched(each, drawn),
        kl_nats=mean_estimate(answers.kl_nats),
        perplexity=answers.perplexity,
        distinct=[float(np.mean([distinct_share(m.texts, n) for m in answers.by_mix])) for n in DISTINCT],
        tokens=float(np.mean([of_mix.tokens.mean() for of_mix in answers.by_mix])),
        passes=answers.passes,
        tokens_per_s=float(np.mean([of_mix.tokens_per_s for of_mix in answers.by_mix])),
    )


def _matched(other: _Drawn, drawn: Sequence[_Drawn]) -> Matched | None:
    cheap = [each for each in drawn if each.answers.is_ours and each.answers.costs_no_more_than(other.answers)]
    if not cheap:
        return None
    best = max(cheap, key=lambda each: float(each.products[0]))
    return Matched(best.answers.method, *best.ahead_of(other))


def _less(own: Figures, other: Figures) -> Estimate:
    return estimate_of(own[0] - other[0], own[1:] - other[1:])


def _shifts(found: Measured, base: Measured, objectives: Sequence[str], stds: Mapping[str, float]) -> Figures:
    """[prompts, objectives]"""
    columns = [(found.rewards[name].mean(axis=1) - base.rewards[name].mean(axis=1)) / stds[name] for name in objectives]
    return np.stack(columns, axis=1)


def _point(group: MixGroup, at: int, found: Measured, shifts: Figures) -> Point:
    estimates = {name: mean_estimate(shifts[:, place]) for place, name in enumerate(group.objectives)}
    return Point(group.mixes[at].shares, estimates, mean_estimate(found.kl_nats), found.perplexity)
