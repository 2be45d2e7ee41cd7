"""The request field `schedule`: read, and checked as far as it can be without the operator's policy.

Runs in the HTTP process. No torch, no vLLM.
"""

from collections.abc import Sequence
from typing import Any

from server.errors import FieldError
from server.requests.fields import near_miss
from server.requests.weights import changed_weights, no_giant
from valuemodels.contract.guidance import ScheduledChange

MAX_ENTRIES = 1000
"""More than a hand on a slider makes in a few minutes."""
SCHEDULED = ("objective_weights", "beta", "kl_budget")
_FROM = "from_token"


def read_schedule(value: Any, objectives: Sequence[str]) -> tuple[ScheduledChange, ...]:
    """Read a schedule; whether what it asks for is allowed is `GuidancePolicy.check`'s to say.

    Raises:
        FieldError: naming the entry and its field, the value, and what is allowed.
    """
    if not isinstance(value, list):
        raise FieldError("schedule", value, f"a list of objects with {_FROM} and one or more of {', '.join(SCHEDULED)}")
    if len(value) > MAX_ENTRIES:
        raise FieldError("schedule", f"{len(value)} entries", f"at most {MAX_ENTRIES} entries")
    entries: list[ScheduledChange] = []
    for number, wire in enumerate(value):
        entry = _entry(f"schedule.{number}", wire, objectives)
        if entries and entry.from_token <= entries[-1].from_token:
            allowed = f"above {entries[-1].from_token}, which the entry before it has"
            raise FieldError(f"schedule.{number}.{_FROM}", entry.from_token, allowed)
        entries.append(entry)
    return tuple(entries)


def _entry(where: str, wire: Any, objectives: Sequence[str]) -> ScheduledChange:
    if not isinstance(wire, dict):
        raise FieldError(where, wire, f"an object with {_FROM} and one or more of {', '.join(SCHEDULED)}")
    for name in wire:
        if name not in (_FROM, *SCHEDULED):
            meant = near_miss(name, (_FROM, *SCHEDULED))
            hint = f'no field of this name; did you mean "{meant}"?' if meant else f"{_FROM}, {', '.join(SCHEDULED)}"
            raise FieldError(f"{where}.{name}", wire[name], hint)
    first = wire.get(_FROM)
    if not isinstance(first, int) or isinstance(first, bool) or not 0 <= first < 2**31:
        raise FieldError(f"{where}.{_FROM}", first, "an integer from 0: the first token that it holds for")
    said = {name: no_giant(wire[name]) for name in ("beta", "kl_budget") if name in wire}
    if "objective_weights" in wire:
        said["objective_weights"] = weights = changed_weights(
            f"{where}.objective_weights", wire["objective_weights"], objectives
        )
        for name in weights:
            if name not in objectives:
                raise FieldError(f"{where}.objective_weights.{name}", weights[name], "one of " + ", ".join(objectives))
    if not said:
        raise FieldError(where, wire, f"one or more of {', '.join(SCHEDULED)}")
    return ScheduledChange(first, said)
