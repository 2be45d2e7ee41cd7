"""The operator's side of guidance: defaults, bounds, floors, and what a request becomes under them.

The HTTP process refuses bad requests by `GuidancePolicy.check`; both sides `resolve` every request, guided or not, and
the worker clamps there whatever came its way. Standard library only.

What an objective does to the text is its *strength*, weight x beta. So bounds and floors that the operator sets for an
objective hold for its weight and for its strength, in units of the default beta: neither beta nor a KL budget leads out
of them.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from valuemodels.contract.checks import is_finite_number, is_integer, one_of
from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.guidance import ChoiceName, Guidance, ResolvedGuidance, Scoring, TraceDetail
from valuemodels.contract.schedule import numbered_states, scheduled

DEFAULT_BETA = 1.0
DEFAULT_CANDIDATES = 40
DEFAULT_MAX_CANDIDATES = 64
DEFAULT_BOUND = 2.0
MAX_BETA = 1e4

OnValueError = Literal["base", "abort"]
"""What becomes of a step whose value is no number: the base's own logits, or the end of the request in an error."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A closed interval."""

    low: float = -DEFAULT_BOUND
    high: float = DEFAULT_BOUND

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high

    def clamp(self, number: float) -> float:
        """The nearest number inside."""
        return min(max(number, self.low), self.high)

    def times(self, factor: float) -> "Bounds":
        """The interval of all its numbers times a factor above 0."""
        return Bounds(self.low * factor, self.high * factor)


UNBOUNDED = Bounds(-math.inf, math.inf)
DEFAULT_BETA_BOUNDS = Bounds(0.0, MAX_BETA)


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What holds for the requests of one API key in place of what holds for all, objective by objective."""

    default_weights: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GuidancePolicy:
    """The operator's defaults and limits over a catalogue of objectives.

    Attributes:
        default_weights: of requests that do not name an objective; its floor, or 0, for those left out.
        bounds: what a weight must lie in; [-2, 2] for those left out.
        floors: pinned objectives: nothing that a client says takes their strength below this.
        beta_bounds: what beta must lie in.
        on_value_error: "base" for objectives left out.
        by_key: the policy in place of this one for requests under these API keys, by the key's name.
    """

    objectives: tuple[str, ...]
    default_weights: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    beta_bounds: Bounds = DEFAULT_BETA_BOUNDS
    on_value_error: Mapping[str, OnValueError] = field(default_factory=dict)
    default_beta: float = DEFAULT_BETA
    default_candidates: int = DEFAULT_CANDIDATES
    default_candidate_min_p: float = 0.0
    max_candidates: int = DEFAULT_MAX_CANDIDATES
    default_scoring: Scoring = "exact"
    scorings: tuple[Scoring, ...] = ("exact",)
    by_key: Mapping[str, "GuidancePolicy"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, bounds in self.bounds.items():
            self._known(f"bounds.{name}", name)
            _check_interval(f"bounds.{name}", bounds)
        _check_interval("beta_bounds", self.beta_bounds, at_least=0.0)
        for name, action in self.on_value_error.items():
            self._known(f"on_value_error.{name}", name)
            if action not in get_args(OnValueError):
                raise GuidanceError(f"on_value_error.{name}", action, one_of(get_args(OnValueError)))
        if self.max_candidates < 1:
            raise GuidanceError("max_candidates", self.max_candidates, "an integer of at least 1")
        self._check_floors()
        self._check_defaults()

    def of(self, key: str | None) -> "GuidancePolicy":
        """The policy for requests under an API key, by the key's name."""
        return self if key is None else self.by_key.get(key, self)

    def bounds_of(self, name: str) -> Bounds:
        """The bounds that hold for one objective's weight, its floor included."""
        bounds = self.bounds.get(name, Bounds())
        return bounds if name not in self.floors else Bounds(max(bounds.low, self.floors[name]), bounds.high)

    def default_of(self, name: str) -> float:
        """The weight of requests that do not name an objective."""
        return float(self.default_weights.get(name, max(0.0, self.floors.get(name, 0.0))))

    def strength_bounds(self, name: str) -> Bounds:
        """What weight x beta of an objective stays in."""
        if name not in self.bounds and name not in self.floors:
            return UNBOUNDED
        return self.bounds_of(name).times(self.default_beta or 1.0)

    def pin_of(self, name: str) -> float:
        """The strength nearest to 0 that an objective may have."""
        return self.strength_bounds(name).clamp(0.0)

    def check(self, guidance: Guidance) -> None:
        """Refuse what the operator does not allow.

        Raises:
            GuidanceError: naming the field, its value and what is allowed.
        """
        policy = self.of(guidance.key)
        policy.check_fields(guidance)
        policy._check_strengths(guidance)
        for number, held in numbered_states(guidance):
            try:
                policy.check_fields(held)
                policy._check_strengths(held)
            except GuidanceError as error:
                raise GuidanceError(f"schedule.{number}.{error.field}", error.value, error.allowed) from None

    def check_fields(self, guidance: Guidance, weights_field: str = "objective_weights") -> None:
        """As `check`, each field by itself: for what says only a part of what will hold.

        Raises:
            GuidanceError: naming the field, its value and what is allowed.
        """
        for name, weight in guidance.weights.items():
            where = f"{weights_field}.{name}"
            self._known(where, name)
            bounds = self.bounds_of(name)
            if not is_finite_number(weight) or weight not in bounds:
                raise GuidanceError(where, weight, str(bounds))
        if (beta := guidance.beta) is not None and not (is_finite_number(beta) and beta in self.beta_bounds):
            raise GuidanceError("beta", beta, str(self.beta_bounds))
        if (k := guidance.candidates) is not None and not (is_integer(k) and 1 <= k <= self.max_candidates):
            raise GuidanceError("candidates", k, f"an integer from 1 to {self.max_candidates}")
        if (share := guidance.candidate_min_p) is not None and not (is_finite_number(share) and 0 <= share < 1):
            raise GuidanceError("candidate_min_p", share, "a number from 0 to below 1; 0 keeps all candidates")
        if (budget := guidance.kl_budget) is not None and not (is_finite_number(budget) and budget > 0):
            raise GuidanceError("kl_budget", budget, "a number above 0 (nats a token), or null for none")
        if guidance.scoring is not None and guidance.scoring not in self.scorings:
            raise GuidanceError("scoring", guidance.scoring, one_of(self.scorings))
        if guidance.trace not in get_args(TraceDetail):
            raise GuidanceError("return_values", guidance.trace, 'false, true or "candidates"')

    def resolve(self, guidance: Guidance | None, token: int = 0, choice: ChoiceName | None = None) -> ResolvedGuidance:
        """Fill in the operator's defaults and clamp to what is allowed. None is a request without any guidance.

        Of its schedule what is said up to a token holds, of the choice or else of all of them. What has passed `check`
        is changed in one way only: a strength below an objective's floor is raised to it.
        """
        asked = scheduled(guidance or Guidance(generation_id=""), token, choice)
        policy = self.of(asked.key)
        weights = tuple(
            policy.bounds_of(n).clamp(float(asked.weights.get(n, policy.default_of(n)))) for n in self.objectives
        )
        beta = self.beta_bounds.clamp(float(self.default_beta if asked.beta is None else asked.beta))
        strengths = (policy.strength_bounds(n).clamp(w * beta) for n, w in zip(self.objectives, weights, strict=True))
        return ResolvedGuidance(
            weights=weights,
            beta=beta,
            candidates=self.default_candidates if asked.candidates is None else asked.candidates,
            candidate_min_p=float(
                self.default_candidate_min_p if asked.candidate_min_p is None else asked.candidate_min_p
            ),
            kl_budget=None if asked.kl_budget is None else float(asked.kl_budget),
            scoring=asked.scoring or self.default_scoring,
            trace=asked.trace,
            strengths=tuple(strengths),
            pins=tuple(map(policy.pin_of, self.objectives)),
            has_schedule=guidance is not None and bool(guidance.schedule),
        )

    def _check_strengths(self, guidance: Guidance) -> None:
        """Refuse weights and a beta that are allowed each by itself, and whose product is not.

        A product below a floor is no reason: it is raised.
        """
        beta = self.default_beta if guidance.beta is None else guidance.beta
        for name in self.objectives:
            weight, bounds = guidance.weights.get(name, self.default_of(name)), self.strength_bounds(name)
            if min(bounds.low, 0.0) <= weight * beta <= max(bounds.high, 0.0):
                continue
            is_of_beta = guidance.beta is not None
            other = f"a weight of {weight:g} for {name}" if is_of_beta else f"beta at {beta:g}"
            allowed = f"what keeps weight x beta of {name} within {bounds.low:g} to {bounds.high:g}, with {other}"
            raise GuidanceError(*(("beta", beta) if is_of_beta else (f"objective_weights.{name}", weight)), allowed)

    def _check_floors(self) -> None:
        for name, floor in self.floors.items():
            self._known(f"floors.{name}", name)
            high = self.bounds.get(name, Bounds()).high
            if not is_finite_number(floor) or floor > high:
                raise GuidanceError(
                    f"floors.{name}", floor, f"a number of at most {high:g}, the objective's upper bound"
                )

    def _check_defaults(self) -> None:
        stated = Guidance("defaults", self.default_weights, self.default_beta, self.default_candidates)
        self.check_fields(replace(stated, candidate_min_p=self.default_candidate_min_p), "default_weights")
        for name in self.objectives:
            if (weight := self.default_of(name)) not in self.bounds_of(name):
                raise GuidanceError(
                    f"default_weights.{name}", weight, f"{self.bounds_of(name)}: set one with the bounds"
                )
        if self.default_scoring not in self.scorings:
            raise GuidanceError("scoring", self.default_scoring, one_of(self.scorings))

    def _known(self, where: str, name: str) -> None:
        if name not in self.objectives:
            raise GuidanceError(where, name, one_of(self.objectives))


def _check_interval(where: str, bounds: Bounds, at_least: float = -sys.float_info.max) -> None:
    low, high = bounds.low, bounds.high
    if not (is_finite_number(low) and is_finite_number(high) and at_least <= low <= high):
        least = "" if at_least < 0 else f" of at least {at_least:g}"
        raise GuidanceError(where, [low, high], f"two finite numbers{least}, low <= high")
