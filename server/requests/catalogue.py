"""The catalogue: which objectives this server offers, in what bounds, and what a request makes of them.

Runs in the HTTP process. No torch, no vLLM.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from server.errors import FieldError
from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.guidance import Guidance, ResolvedGuidance, TraceDetail
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.policy import GuidancePolicy
from valuemodels.contract.value_config import ObjectiveConfig, ValueConfig, objective_owners, offered_scorings

NULLABLE = frozenset({"kl_budget"})
_TRACES: dict[bool | str, TraceDetail] = {False: "totals", True: "values", "candidates": "candidates"}


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One objective and the checkpoint it comes from."""

    objective: ObjectiveConfig
    checkpoint: ValueConfig


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """What a request asked for, checked, beside what holds for it.

    Attributes:
        guidance: goes into the request's sampling parameters.
        resolved: with the operator's defaults filled in.
        must_travel: without the guidance the worker would do something else.
    """

    guidance: Guidance
    resolved: ResolvedGuidance
    must_travel: bool


class Catalogue:
    """The objectives of all loaded checkpoints under the operator's policy."""

    def __init__(self, config: GuideConfig, checkpoints: Sequence[ValueConfig]) -> None:
        """Args: `checkpoints` are the `value_config.json` of `config.checkpoints`, in this order.

        Raises:
            CheckpointError: two checkpoints entry the same objective.
            GuidanceError: the operator's defaults or bounds do not fit.
        """
        owners = objective_owners(checkpoints)
        self.policy: GuidancePolicy = config.policy(tuple(owners), offered_scorings(checkpoints))
        self.entries = {
            objective.name: CatalogueEntry(objective, checkpoint)
            for checkpoint in checkpoints
            for objective in checkpoint.objectives
        }
        self.checkpoint = "+".join(checkpoint.id for checkpoint in checkpoints)
        self._plain_without_guidance = self.policy.resolve(None).is_plain

    def listing(self) -> dict[str, Any]:
        """The body of `GET /v1/objectives`."""
        return {"object": "list", "data": [self._listed(name, entry) for name, entry in self.entries.items()]}

    def _listed(self, name: str, entry: CatalogueEntry) -> dict[str, Any]:
        bounds = self.policy.bounds_of(name)
        probe = entry.checkpoint.probe
        return {
            "id": name,
            "object": "objective",
            "description": entry.objective.description,
            "default": self.policy.default_of(name),
            "bounds": [bounds.low, bounds.high],
            "floor": self.policy.floors.get(name),
            "scorings": list(self.policy.scorings),
            "checkpoint": entry.checkpoint.id,
            "reward": entry.objective.reward,
            "metrics": dict(entry.objective.metrics),
            "fast_metrics": None if probe is None else dict(probe.metrics.get(name, {})),
        }

    def check(self, fields: Mapping[str, Any], generation_id: str) -> CheckedRequest:
        """Make a checked `Guidance` of the fields a client wrote.

        Args:
            fields: names of `GuidanceFields` -> the JSON value as it came.

        Raises:
            FieldError: naming the field, its value and what is allowed.
        """
        for name, value in fields.items():
            if value is None and name not in NULLABLE:
                raise FieldError(name, None, "a value, or leaving the field out")
        if "profile" in fields:
            raise FieldError("profile", fields["profile"], "leaving the field out: this server has no profiles")
        guidance = Guidance(
            generation_id=generation_id,
            weights=self._weights(fields.get("objective_weights", {})),
            beta=no_giant(fields.get("beta")),
            candidates=no_giant(fields.get("candidates")),
            kl_budget=no_giant(fields.get("kl_budget")),
            scoring=fields.get("scoring"),
            trace=_trace(fields.get("return_values", False)),
        )
        try:
            self.policy.check(guidance)
        except GuidanceError as error:
            raise FieldError(error.field, error.value, error.allowed) from None
        resolved = self.policy.resolve(guidance)
        return CheckedRequest(guidance, resolved, resolved.needs_values or not self._plain_without_guidance)

    def _weights(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            names = ", ".join(self.entries)
            raise FieldError("objective_weights", value, f"an object from objective to number; objectives: {names}")
        return {name: no_giant(weight) for name, weight in value.items()}


def _trace(value: Any) -> TraceDetail:
    if isinstance(value, bool | str) and value in _TRACES:
        return _TRACES[value]
    raise FieldError("return_values", value, 'false, true or "candidates"')


def no_giant(value: Any) -> Any:
    """JSON integers have no limit, and float() refuses those beyond a double: to us they are infinite."""
    is_giant = isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1e300
    return math.inf if is_giant else value


assert set(_TRACES.values()) == set(get_args(TraceDetail)), f"return_values misses a detail of {TraceDetail}"
