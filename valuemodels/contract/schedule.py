"""Weights that vary along a text by plan: what of a request's schedule holds at a token. Standard library only.

An entry changes what it names from its token on, as a change of a running generation does, and leaves all else as it
is. Changes that a person makes meanwhile are made over it: of what they name, the schedule says no more.
"""

from collections.abc import Iterator
from dataclasses import replace

from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import Guidance, ScheduledChange


def scheduled(asked: Guidance, token: int) -> Guidance:
    """What a request asks for at a token: it has no schedule any more, and what that said until then is made to it."""
    held = replace(asked, schedule=())
    for entry in asked.schedule:
        if entry.from_token <= token:
            held = change_of(entry).over(held)
    return held


def next_entry(asked: Guidance, token: int) -> int | None:
    """The first token after this one that an entry holds from; None where none comes."""
    return next((entry.from_token for entry in asked.schedule if entry.from_token > token), None)


def states(asked: Guidance) -> Iterator[Guidance]:
    """What a request asks for before its schedule says anything, and then entry by entry."""
    held = replace(asked, schedule=())
    yield held
    for entry in asked.schedule:
        held = change_of(entry).over(held)
        yield held


def change_of(entry: ScheduledChange) -> Change:
    """An entry as a change, of no generation in particular."""
    return Change.from_wire({"generation_id": "", **entry.said})
