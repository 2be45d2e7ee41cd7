"""The request field `schedule`: read, and checked as far as it can be without the operator's policy.

Runs in the HTTP process. No torch, no vLLM.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from server.errors import FieldError
from server.requests.fields import near_miss
from server.requests.weights import changed_weights, no_giant
from valuemodels.contract.guidance import ScheduledChange

MAX_ENTRIES = 1000
"""More than a hand on a slider makes in a few minutes."""
SCHEDULED = ("objective_weights", "beta", "kl_budget")
_FROM, _CHOICE = "from_token", "choice"


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
    taken: set[int | None] = set()
    for number, wire in enumerate(value):
        entry = _entry(f"schedule.{number}", wire, objectives)
        last = entries[-1].from_token if entries else -1
        if entry.from_token > last:
            taken.clear()
        _check_order(f"schedule.{number}.{_FROM}", entry, last, taken)
        taken.add(entry.choice)
        entries.append(entry)
    _check_size(entries)
    return tuple(entries)


def check_choices(schedule: Sequence[ScheduledChange], choices: int) -> None:
    """Refuse an entry for a choice that the answer will not have.

    Args:
        choices: of the answer, `n` of each prompt; 0 where that cannot be known.

    Raises:
        FieldError: naming the entry.
    """
    for number, entry in enumerate(schedule):
        if entry.choice is not None and entry.choice >= choices:
            one = f"an integer from 0 to {choices - 1}, or " if choices else ""
            allowed = f"{one}leaving the field out for all choices"
            raise FieldError(f"schedule.{number}.{_CHOICE}", entry.choice, allowed)


def _check_order(where: str, entry: ScheduledChange, last: int, taken: AbstractSet[int | None]) -> None:
    """Tokens rise, from entry to entry; the same one stands again for another choice alone. `taken`: who has it."""
    if entry.from_token < last:
        raise FieldError(where, entry.from_token, f"at least {last}, which the entry before it has")
    if taken and (entry.choice is None or taken & {None, entry.choice}):
        raise FieldError(where, entry.from_token, f"above {last}, which an entry before it has for the same choice")


def _check_size(entries: Sequence[ScheduledChange]) -> None:
    """Every choice that is named has a timeline of its own, which has what is said of all of them in it, too."""
    named = {entry.choice for entry in entries} - {None}
    shared = sum(entry.choice is None for entry in entries)
    if (total := len(entries) + shared * len(named)) > MAX_ENTRIES:
        said = f"{total} entries, those for all choices counted once more for each of {len(named)}"
        raise FieldError("schedule", said, f"at most {MAX_ENTRIES} entries")


def _entry(where: str, wire: Any, objectives: Sequence[str]) -> ScheduledChange:
    if not isinstance(wire, dict):
        raise FieldError(where, wire, f"an object with {_FROM} and one or more of {', '.join(SCHEDULED)}")
    for name in wire:
        if name not in (known := (_FROM, *SCHEDULED, _CHOICE)):
            meant = near_miss(name, known)
            hint = f'no field of this name; did you mean "{meant}"?' if meant else ", ".join(known)
            raise FieldError(f"{where}.{name}", wire[name], hint)
    first = wire.get(_FROM)
    if not isinstance(first, int) or isinstance(first, bool) or not 0 <= first < 2**31:
        raise FieldError(f"{where}.{_FROM}", first, "an integer from 0: the first token that it holds for")
    choice = wire.get(_CHOICE)
    if choice is not None and not (isinstance(choice, int) and not isinstance(choice, bool) and 0 <= choice < 2**31):
        raise FieldError(f"{where}.{_CHOICE}", choice, "an integer from 0, or leaving the field out for all choices")
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
    return ScheduledChange(first, said, choice)
