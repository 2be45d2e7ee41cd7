"""Ways of aligning one base to a mix of objectives, that need no more training than the value models have had.

Runs in the command's process, with the engine in it. Must not import torch or vllm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log, nan
from typing import Protocol

import numpy as np

from training.evaluate.mix import Mix
from training.rollouts.engine import RolloutEngine
from training.rollouts.measured import Measured, measured
from training.rollouts.sampler import Condition, Sampler
from training.rollouts.scored import scored_replies
from valuemodels.contract.guidance import Guidance, Scoring


class Method(Protocol):
    """One of them.

    Attributes:
        name: in the report.
    """

    @property
    def name(self) -> str: ...

    def passes(self, mix: Mix) -> float:
        """Tokens that the base, or an expert made from it, reads or writes for one that a reader gets, prompts aside.

        nan where other models read, too.
        """

    def at(self, mix: Mix) -> Measured:
        """Its replies to all prompts, sampled first where they are missing."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all methods share.

    Attributes:
        sampler: with `Limits.read_top`; engine: that it samples from.
        rewards: objective -> id of its reward; means, stds: of the base's rewards, as the checkpoint has them.
        samples: replies a prompt.
    """

    sampler: Sampler
    engine: Callable[[], RolloutEngine]
    rewards: Mapping[str, str]
    means: Mapping[str, float]
    stds: Mapping[str, float]
    samples: int


@dataclass(frozen=True)
class Base:
    """The base itself, whatever the mix.

    Attributes:
        best_of: how many replies are drawn for each that is shown, for others to choose from.
    """

    setting: Setting
    best_of: int
    name: str = "base"

    def passes(self, mix: Mix) -> float:
        return 1.0

    def at(self, mix: Mix) -> Measured:
        found = self.drawn
        places = np.tile(np.arange(self.setting.samples), (len(found.tokens), 1))
        return found.chosen(places, 0.0, found.tokens_per_s)

    @cached_property
    def drawn(self) -> Measured:
        """All the samples that were drawn, for others to choose from."""
        samples = self.setting.samples * self.best_of
        condition = Condition(f"base_x{samples}", None, samples)
        scored = scored_replies(self.setting.sampler, self.setting.rewards, condition, silent)
        return measured(scored, self.setting.sampler.tokens_per_s(condition))


@dataclass(frozen=True, slots=True)
class TiltKind:
    """How strongly is tilted, and what.

    Attributes:
        strength: of the weights together; at 1 a reply costs what the checkpoint was calibrated to.
        candidates: None is the server's default.
    """

    strength: float = 1.0
    candidates: int | None = None


@dataclass(frozen=True)
class Tilted:
    """This project's: the base, tilted by value models."""

    setting: Setting
    scoring: Scoring
    kind: TiltKind

    def passes(self, mix: Mix) -> float:
        """Fast scoring reads nothing of its own; what the others' trunk reads is not in passes of the base."""
        return 1.0 if self.scoring == "fast" else nan

    @property
    def name(self) -> str:
        parts = [f"tilted, {self.scoring}"]
        parts += [f"strength {self.kind.strength:g}"] if self.kind.strength != 1.0 else []
        parts += [f"{self.kind.candidates} candidates"] if self.kind.candidates else []
        return ", ".join(parts)

    def at(self, mix: Mix) -> Measured:
        strength, candidates = self.kind.strength, self.kind.candidates
        guidance = Guidance("", mix.tilt(strength), scoring=self.scoring, candidates=candidates)
        k = f"_k{candidates}" if candidates else ""
        name = f"{self.scoring}_{strength:g}{k}_{mix.folder_name}_x{self.setting.samples}"
        condition = Condition(name, guidance, self.setting.samples)
        sampler = self.setting.sampler
        if candidates is not None:
            sampler = replace(sampler, limits=replace(sampler.limits, read_top=candidates))
        scored = scored_replies(sampler, self.setting.rewards, condition, silent)
        return measured(scored, sampler.tokens_per_s(condition))


@dataclass(frozen=True)
class BestOf:
    """The best of `n` replies of the base by the true rewards, which a user would have to have at hand.

    Its KL is log n - (n - 1) / n, which is an upper bound, and exact where no two replies score the same.
    """

    base: Base
    n: int

    @property
    def name(self) -> str:
        return f"best of {self.n}"

    def passes(self, mix: Mix) -> float:
        return float(self.n)

    def at(self, mix: Mix) -> Measured:
        found, setting = self.base.drawn, self.base.setting
        liked = np.sum(
            [
                share * (found.rewards[name] - setting.means[name]) / setting.stds[name]
                for name, share in mix.shares.items()
            ],
            axis=0,
        )
        prompts = len(liked)
        # Every choice is made among replies of its own: of as many groups as there are samples, the first n.
        groups = liked.reshape(prompts, setting.samples, -1)
        best = groups[:, :, : self.n].argmax(axis=2)
        places = best + np.arange(setting.samples) * groups.shape[2]
        return found.chosen(places, log(self.n) - (self.n - 1) / self.n, found.tokens_per_s / self.n)


def silent(amount: int, note: str = "") -> None:
    """Samplers tell of what they draw, and a report of what it shows: the base draws once for all mixes."""


def every_method(
    base: Base,
    scoring: Scoring,
    tilts: Sequence[TiltKind],
    best_of: Sequence[int],
    prompted: Method | None,
) -> list[Method]:
    """The base first, then this project's tilts, the first of which the others are set against, then the others."""
    setting = base.setting
    found: list[Method] = [base, *(Tilted(setting, scoring, kind) for kind in tilts)]
    found += [] if prompted is None else [prompted]
    return [*found, *(BestOf(base, n) for n in best_of)]
