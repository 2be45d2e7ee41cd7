"""The body of `PATCH /v1/generations/{id}`: read, checked by the policy that requests are checked by.

Runs in the HTTP process. No torch, no vLLM.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.errors import BodyError, FieldError
from server.requests.catalogue import no_giant
from server.requests.fields import GuidanceFields, near_miss
from valuemodels.contract.changes import STRENGTH_FIELDS, WEIGHT_PREFIX
from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.guidance import Guidance
from valuemodels.contract.policy import GuidancePolicy

WEIGHTS = "objective_weights"
CHANGEABLE = (WEIGHTS, *sorted(STRENGTH_FIELDS))
MAX_BODY_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Patch:
    """A change as a client wrote it, checked.

    Attributes:
        fields: as in `Change`.
        choice: its index in the response; None: all.
    """

    fields: Mapping[str, float | None]
    choice: int | None = None


def read_patch(body: bytes, policy: GuidancePolicy) -> Patch:
    """Parse and check a body.

    Raises:
        BodyError: it is no JSON object, or changes nothing.
        FieldError: naming the field, its value and what is allowed.
    """
    wire = _parse(body)
    for name, value in wire.items():
        if name not in CHANGEABLE and name != "choice":
            raise FieldError(name, value, _instead_of(name))
    choice = wire.get("choice")
    if "choice" in wire and (not isinstance(choice, int) or isinstance(choice, bool) or choice < 0):
        raise FieldError("choice", choice, "a choice's index, or leaving the field out for all choices")
    weights = _weights(wire[WEIGHTS], policy) if WEIGHTS in wire else {}
    strength = {name: no_giant(wire[name]) for name in STRENGTH_FIELDS if name in wire}
    _check(weights, strength, policy)
    fields = {WEIGHT_PREFIX + name: weight for name, weight in weights.items()} | strength
    if not fields:
        raise BodyError(f"the body changes nothing; give one of {', '.join(CHANGEABLE)}")
    return Patch({name: None if value is None else float(value) for name, value in fields.items()}, choice)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        wire = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"the body cannot be read as JSON: {error}") from None
    if not isinstance(wire, dict):
        raise BodyError(f"the body is no JSON object; give one with {', '.join(CHANGEABLE)}")
    return wire


def _weights(value: Any, policy: GuidancePolicy) -> dict[str, Any]:
    """Objective -> weight or None. Null for all of them is null for each."""
    if value is None:
        return dict.fromkeys(policy.objectives)
    if not isinstance(value, dict):
        names = ", ".join(policy.objectives)
        raise FieldError(WEIGHTS, value, f"an object from objective to number or null, or null; objectives: {names}")
    return {name: no_giant(weight) for name, weight in value.items()}


def _check(weights: Mapping[str, Any], strength: Mapping[str, Any], policy: GuidancePolicy) -> None:
    """As a request with these fields is checked. In place of a null stands a weight that is always allowed."""
    stated = {name: policy.bounds_of(name).low if weight is None else weight for name, weight in weights.items()}
    try:
        policy.check(Guidance("patch", stated, strength.get("beta"), kl_budget=strength.get("kl_budget")))
    except GuidanceError as error:
        raise FieldError(error.field, error.value, error.allowed) from None


def _instead_of(name: str) -> str:
    if name in GuidanceFields.model_fields:
        return f"nothing: it holds from start to end; what can change is {', '.join(CHANGEABLE)}"
    meant = near_miss(name, (*CHANGEABLE, "choice"))
    return f'no field of this name; did you mean "{meant}"?' if meant else f"one of {', '.join(CHANGEABLE)}, choice"
