"""What the workers build their guide from. Standard library only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.guidance import Scoring
from valuemodels.contract.policy import (
    DEFAULT_BETA,
    DEFAULT_BETA_BOUNDS,
    DEFAULT_CANDIDATES,
    DEFAULT_MAX_CANDIDATES,
    Bounds,
    GuidancePolicy,
    KeyRules,
    OnValueError,
)

DEFAULT_CACHE_GIB = 1.0
DEFAULT_HYBRID_CANDIDATES = 8

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""A dtype of model weights by its name; "auto" leaves the choice to what the machine is good at."""


@dataclass(frozen=True, slots=True)
class GuideConfig:
    """What the worker builds its guide from: sent once, in vLLM's `additional_config` under `EXTRA_ARGS_KEY`.

    Attributes:
        checkpoints: folders of value checkpoints, already on this machine's disk.
        base_model: folder or hub id of the base model; backbones `base[:n]` take their layers from it.
        keys: name of an API key -> what holds for its requests alone.
        default_scoring: for requests that do not say; None: fast where it is loaded, else the first that is.
        scorings: which of the offered scorings to load; None: all of them.
        hybrid_candidates: how many candidates hybrid scoring picks at most, to be read by the value models.
        cache_gib: memory the value KV cache may take.
        max_traces: generations whose traces are kept; the oldest go first.
    """

    checkpoints: tuple[str, ...]
    base_model: str
    base_revision: str | None = None
    default_weights: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    beta_bounds: Bounds = DEFAULT_BETA_BOUNDS
    on_value_error: Mapping[str, OnValueError] = field(default_factory=dict)
    keys: Mapping[str, KeyRules] = field(default_factory=dict)
    default_beta: float = DEFAULT_BETA
    default_candidates: int = DEFAULT_CANDIDATES
    default_candidate_min_p: float = 0.0
    max_candidates: int = DEFAULT_MAX_CANDIDATES
    default_scoring: Scoring | None = None
    scorings: tuple[Scoring, ...] | None = None
    hybrid_candidates: int = DEFAULT_HYBRID_CANDIDATES
    value_dtype: DType = "auto"
    cache_gib: float = DEFAULT_CACHE_GIB
    max_traces: int = 4096

    def policy(self, objectives: tuple[str, ...], offered: tuple[Scoring, ...] = ("exact",)) -> GuidancePolicy:
        """The policy over the objectives and scorings that the checkpoints turned out to hold.

        Raises:
            GuidanceError: the operator's defaults, bounds or scorings do not fit them.
        """
        scorings = offered if self.scorings is None else self.scorings
        if not scorings or not set(scorings) <= set(offered):
            raise GuidanceError("scorings", list(scorings), f"some of {', '.join(offered)}")
        shared = {f.name for f in fields(GuidancePolicy)} & {f.name for f in fields(self)}
        own = {name: getattr(self, name) for name in shared - {"default_scoring", "scorings"}}
        default: Scoring = self.default_scoring or ("fast" if "fast" in scorings else scorings[0])
        policy = GuidancePolicy(objectives=objectives, scorings=scorings, default_scoring=default, **own)
        return replace(policy, by_key={name: _under(policy, name, rules) for name, rules in self.keys.items()})

    def to_wire(self) -> dict[str, Any]:
        """A plain dict with the same content, for vLLM's `additional_config`."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "GuideConfig":
        """Rebuild a config from `to_wire`'s dict.

        Raises:
            TypeError: a key is unknown or missing.
        """
        scorings = wire.get("scorings")
        parsed = {
            "checkpoints": tuple(wire["checkpoints"]),
            "bounds": _parsed_bounds(wire.get("bounds", {})),
            "beta_bounds": Bounds(**wire["beta_bounds"]) if "beta_bounds" in wire else DEFAULT_BETA_BOUNDS,
            "keys": {
                name: KeyRules(**{**rules, "bounds": _parsed_bounds(rules["bounds"])})
                for name, rules in wire.get("keys", {}).items()
            },
            "scorings": None if scorings is None else tuple(scorings),
        }
        return cls(**{**wire, **parsed})


def _parsed_bounds(wire: Mapping[str, Mapping[str, float]]) -> dict[str, Bounds]:
    return {name: Bounds(**value) for name, value in wire.items()}


def _under(policy: GuidancePolicy, key: str, rules: KeyRules) -> GuidancePolicy:
    """The policy for one key's requests: its own rules stand in front of everybody's.

    Raises:
        GuidanceError: its rules do not fit, among themselves or with everybody's.
    """
    try:
        return replace(
            policy,
            default_weights={**policy.default_weights, **rules.default_weights},
            bounds={**policy.bounds, **rules.bounds},
            floors={**policy.floors, **rules.floors},
        )
    except GuidanceError as error:
        raise GuidanceError(f"keys.{key}.{error.field}", error.value, error.allowed) from None
