"""The body of `PATCH /v1/generations/{id}`: read, checked by the policy that requests are checked by.

Runs in the HTTP process. No torch, no vLLM.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from server.errors import BodyError, FieldError
from server.requests.fields import GuidanceFields, near_miss
from server.requests.weights import changed_weights, no_giant
from valuemodels.contract.changes import Change
from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.guidance import ChoiceName, Guidance
from valuemodels.contract.policy import GuidancePolicy

CHANGEABLE = ("objective_weights", "beta", "kl_budget")
MAX_BODY_BYTES = 65_536


def read_change(body: bytes, policy: GuidancePolicy, generation_id: str, choices: Sequence[ChoiceName]) -> Change:
    """Parse and check a body.

    Args:
        choices: of the generation, by their index in the response.

    Raises:
        BodyError: it is no JSON object, or changes nothing.
        FieldError: naming the field, its value and what is allowed.
    """
    wire = _parse(body)
    for name, value in wire.items():
        if name not in CHANGEABLE and name != "choice":
            raise FieldError(name, value, _instead_of(name))
    choice = _choice(wire["choice"], choices) if "choice" in wire else None
    weights = (
        changed_weights("objective_weights", wire["objective_weights"], policy.objectives)
        if "objective_weights" in wire
        else {}
    )
    strength: dict[str, Any] = {name: no_giant(wire[name]) for name in ("beta", "kl_budget") if name in wire}
    _check(weights, strength, policy)
    change = Change(
        generation_id,
        weights={name: _number(weight) for name, weight in weights.items()},
        choice=choice,
        **{name: _number(value) for name, value in strength.items()},
    )
    if not change.said:
        raise BodyError(f"the body changes nothing; give one of {', '.join(CHANGEABLE)}")
    return change


def _choice(value: Any, choices: Sequence[ChoiceName]) -> ChoiceName:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return choices[value]
    allowed = f"an integer from 0 to {len(choices) - 1}, or leaving the field out for all choices"
    raise FieldError("choice", value, allowed)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        wire = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"the body cannot be read as JSON: {error}") from None
    if not isinstance(wire, dict):
        raise BodyError(f"the body is no JSON object; give one with {', '.join(CHANGEABLE)}")
    return wire


def _check(weights: Mapping[str, Any], strength: Mapping[str, Any], policy: GuidancePolicy) -> None:
    """As a request with these fields is checked. In place of a null stands a weight that is always allowed."""
    stated = {name: policy.bounds_of(name).low if weight is None else weight for name, weight in weights.items()}
    try:
        policy.check_fields(Guidance("", stated, strength.get("beta"), kl_budget=strength.get("kl_budget")))
    except GuidanceError as error:
        raise FieldError(error.field, error.value, error.allowed) from None


def _instead_of(name: str) -> str:
    if name in GuidanceFields.model_fields:
        return f"leaving the field out: it holds from start to end; what can change is {', '.join(CHANGEABLE)}"
    meant = near_miss(name, (*CHANGEABLE, "choice"))
    return f'no field of this name; did you mean "{meant}"?' if meant else f"one of {', '.join(CHANGEABLE)}, choice"
