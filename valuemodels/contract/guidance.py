"""What one request asks of the value models, and what the operator makes of it. Standard library only.

The HTTP process checks and sends a `Guidance`, the worker resolves it against the same `GuidancePolicy`.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

EXTRA_ARGS_KEY = "mavis"
"""The key of `SamplingParams.extra_args` under which a `Guidance` travels to the worker."""

Scoring = Literal["exact", "fast"]
TraceDetail = Literal["totals", "values", "candidates"]

DEFAULT_CANDIDATES = 40
DEFAULT_MAX_CANDIDATES = 64
DEFAULT_BOUND = 2.0
MAX_BETA = 1e4


class GuidanceError(ValueError):
    """A guidance field is wrong.

    Attributes:
        field: dotted name of the field, as the client wrote it (`objective_weights.positivity`).
        value: what was given.
        allowed: what would have been accepted, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}: got {_shown(value)}, allowed is {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Bounds:
    """The closed interval a weight may lie in."""

    low: float = -DEFAULT_BOUND
    high: float = DEFAULT_BOUND

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Guidance:
    """The guidance of one request, as the client asked for it. `None` means: not said, the operator's default holds.

    An instance is also the proof that our own code made it: JSON can carry a dict into `vllm_xargs`, never this type.

    Attributes:
        generation_id: id of the generation the request belongs to; choices and prompts of one call share it.
        weights: objective name -> weight; objectives left out keep the operator's default.
        beta: strength, >= 0.
        candidates: how many of the base's most likely tokens are scored, k.
        kl_budget: nats a token: beta is lowered at each step to keep KL(tilted, base on the candidates) within it.
        scoring: which scorer, where the checkpoint offers both.
        trace: how much of what was scored is kept for the response.
        prompt_index: which prompt of the call this is.
    """

    generation_id: str
    weights: Mapping[str, float] = field(default_factory=dict)
    beta: float | None = None
    candidates: int | None = None
    kl_budget: float | None = None
    scoring: Scoring | None = None
    trace: TraceDetail = "totals"
    prompt_index: int = 0

    @classmethod
    def from_wire(cls, wire: "Guidance | Mapping[str, Any]") -> "Guidance":
        """Rebuild what msgpack made of a `Guidance` on its way into the worker.

        Raises:
            TypeError: a key is unknown or `generation_id` is missing.
        """
        return wire if isinstance(wire, Guidance) else cls(**wire)

    def to_wire(self) -> dict[str, Any]:
        """A plain dict with the same content, for msgpack and JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ResolvedGuidance:
    """A `Guidance` with every blank filled in by the operator's policy.

    Attributes:
        weights: one weight an objective, in the policy's order.
    """

    weights: tuple[float, ...]
    beta: float
    candidates: int
    kl_budget: float | None
    scoring: Scoring
    trace: TraceDetail

    @property
    def is_plain(self) -> bool:
        """True where the tilt is zero whatever the values are: such a request is plain vLLM, bit for bit."""
        return self.beta == 0.0 or not any(self.weights)


@dataclass(frozen=True, slots=True)
class GuidancePolicy:
    """The operator's defaults and limits over a catalogue of objectives.

    The HTTP process refuses bad requests by `check`; both sides `resolve` every request, guided or not.
    """

    objectives: tuple[str, ...]
    default_weights: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    default_beta: float = 1.0
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


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
