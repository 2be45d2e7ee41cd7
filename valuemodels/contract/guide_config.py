"""What the workers build their guide from. Standard library only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.guidance import Scoring
from valuemodels.contract.policy import DEFAULT_BETA, DEFAULT_CANDIDATES, DEFAULT_MAX_CANDIDATES, Bounds, GuidancePolicy

DEFAULT_CACHE_GIB = 1.0

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""A dtype of model weights by its name; "auto" leaves the choice to what the machine is good at."""


@dataclass(frozen=True, slots=True)
class GuideConfig:
    """What the worker builds its guide from: sent once, in vLLM's `additional_config` under `EXTRA_ARGS_KEY`.

    Attributes:
        checkpoints: folders of value checkpoints, already on this machine's disk.
        base_model: folder or hub id of the base model; backbones `base[:n]` take their layers from it.
        default_scoring: for requests that do not say; None: fast where it is offered, else exact.
        scorings: which of the offered scorings to load; None: all of them.
        cache_gib: memory the value KV cache may take.
        max_traces: generations whose traces are kept; the oldest go first.
    """

    checkpoints: tuple[str, ...]
    base_model: str
    base_revision: str | None = None
    default_weights: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    default_beta: float = DEFAULT_BETA
    default_candidates: int = DEFAULT_CANDIDATES
    max_candidates: int = DEFAULT_MAX_CANDIDATES
    default_scoring: Scoring | None = None
    scorings: tuple[Scoring, ...] | None = None
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
        default: Scoring = self.default_scoring or ("fast" if "fast" in scorings else "exact")
        return GuidancePolicy(objectives=objectives, scorings=scorings, default_scoring=default, **own)

    def to_wire(self) -> dict[str, Any]:
        """A plain dict with the same content, for vLLM's `additional_config`."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "GuideConfig":
        """Rebuild a config from `to_wire`'s dict.

        Raises:
            TypeError: a key is unknown or missing.
        """
        bounds = {name: Bounds(**value) for name, value in wire.get("bounds", {}).items()}
        scorings = wire.get("scorings")
        return cls(
            **{
                **wire,
                "checkpoints": tuple(wire["checkpoints"]),
                "bounds": bounds,
                "scorings": None if scorings is None else tuple(scorings),
            }
        )
