"""The operator's side of guidance: defaults, bounds, and what a request becomes under them. Standard library only.

The HTTP process refuses bad requests by `GuidancePolicy.check`; both sides `resolve` every request, guided or not.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.guidance import Guidance, ResolvedGuidance, Scoring, TraceDetail

DEFAULT_BETA = 1.0
DEFAULT_CANDIDATES = 40
DEFAULT_MAX_CANDIDATES = 64
DEFAULT_BOUND = 2.0
MAX_BETA = 1e4


@dataclass(frozen=True, slots=True)
class Bounds:
    """The closed interval a weight may lie in."""

    low: float = -DEFAULT_BOUND
    high: float = DEFAULT_BOUND

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class GuidancePolicy:
    """The operator's defaults and limits over a catalogue of objectives.

    The HTTP process refuses bad requests by `check`; both sides `resolve` every request, guided or not.
    """

    objectives: tuple[str, ...]
    default_weights: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    default_beta: float = DEFAULT_BETA
    default_candidates: int = DEFAULT_CANDIDATES
    max_candidates: int = DEFAULT_MAX_CANDIDATES
    default_scoring: Scoring = "exact"
    scorings: tuple[Scoring, ...] = ("exact",)

    def __post_init__(self) -> None:
        for name in self.bounds:
            self._known(f"bounds.{name}", name)
        for name, bounds in self.bounds.items():
            if not (_is_finite_number(bounds.low) and _is_finite_number(bounds.high) and bounds.low <= bounds.high):
                raise GuidanceError(f"bounds.{name}", [bounds.low, bounds.high], "two finite numbers, low <= high")
        if self.max_candidates < 1:
            raise GuidanceError("max_candidates", self.max_candidates, "an integer of at least 1")
        self.check(
            Guidance(
                "defaults", self.default_weights, self.default_beta, self.default_candidates, None, self.default_scoring
            ),
            weights_field="default_weights",
        )

    def bounds_of(self, name: str) -> Bounds:
        """The bounds that hold for one objective's weight."""
        return self.bounds.get(name, Bounds())

    def check(self, guidance: Guidance, weights_field: str = "objective_weights") -> None:
        """Refuse what the operator does not allow.

        Raises:
            GuidanceError: naming the field, its value and what is allowed.
        """
        for name, weight in guidance.weights.items():
            where = f"{weights_field}.{name}"
            self._known(where, name)
            bounds = self.bounds_of(name)
            if not _is_finite_number(weight) or not bounds.low <= weight <= bounds.high:
                raise GuidanceError(where, weight, str(bounds))
        if (beta := guidance.beta) is not None and not (_is_finite_number(beta) and 0 <= beta <= MAX_BETA):
            raise GuidanceError("beta", beta, f"a number from 0 to {MAX_BETA:g}")
        if (k := guidance.candidates) is not None and not (_is_integer(k) and 1 <= k <= self.max_candidates):
            raise GuidanceError("candidates", k, f"an integer from 1 to {self.max_candidates}")
        if (budget := guidance.kl_budget) is not None and not (_is_finite_number(budget) and budget > 0):
            raise GuidanceError("kl_budget", budget, "a number above 0 (nats a token), or null for none")
        if guidance.scoring is not None and guidance.scoring not in self.scorings:
            raise GuidanceError("scoring", guidance.scoring, _one_of(self.scorings))
        if guidance.trace not in get_args(TraceDetail):
            raise GuidanceError("return_values", guidance.trace, 'false, true or "candidates"')

    def resolve(self, guidance: Guidance | None) -> ResolvedGuidance:
        """Fill in the operator's defaults. `guidance` has passed `check`; None is a request without any."""
        asked = guidance or Guidance(generation_id="")
        weights = {**self.default_weights, **asked.weights}
        return ResolvedGuidance(
            weights=tuple(float(weights.get(name, 0.0)) for name in self.objectives),
            beta=float(self.default_beta if asked.beta is None else asked.beta),
            candidates=self.default_candidates if asked.candidates is None else asked.candidates,
            kl_budget=None if asked.kl_budget is None else float(asked.kl_budget),
            scoring=asked.scoring or self.default_scoring,
            trace=asked.trace,
        )

    def _known(self, where: str, name: str) -> None:
        if name not in self.objectives:
            raise GuidanceError(where, name, _one_of(self.objectives))


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_of(names: tuple[str, ...]) -> str:
    return "one of " + ", ".join(names) if names else "nothing: no objectives are loaded"
