"""Weights that vary along a text by plan: what of a request's schedule holds at a token. Standard library only.

An entry changes what it names from its token on, as a change of a running generation does, and leaves all else as it
is; it may be for one choice alone. Changes that a person makes meanwhile are made over it: of what they name, the
schedule says no more.
"""

from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter

from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import ChoiceName, Guidance, ScheduledChange


def scheduled(asked: Guidance, token: int, choice: ChoiceName | None = None) -> Guidance:
    """What a request asks for at a token of a choice: it has no schedule any more, and what that said until then is
    made to it. Without a choice, what is said of all of them.
    """
    held = replace(asked, schedule=())
    for entry in _entries(asked, choice):
        if entry.from_token <= token:
            held = change_of(entry).over(held)
    return held


def next_entry(asked: Guidance, token: int, choice: ChoiceName) -> int | None:
    """The first token after this one that an entry holds from, for a choice; None where none comes."""
    return next((entry.from_token for entry in _entries(asked, choice) if entry.from_token > token), None)


def states(asked: Guidance, choice: ChoiceName | None = None) -> Iterator[Guidance]:
    """What a request asks for before its schedule says anything of a choice, and then entry by entry."""
    held = replace(asked, schedule=())
    yield held
    for entry in _entries(asked, choice):
        held = change_of(entry).over(held)
        yield held


def numbered_states(asked: Guidance) -> Iterator[tuple[int, Guidance]]:
    """All that a schedule will make of a request, for any choice: the number of an entry, and what holds from it on."""
    by_choice: dict[int | None, list[tuple[int, ScheduledChange]]] = {None: []}
    for number, entry in enumerate(asked.schedule):
        by_choice.setdefault(entry.choice, []).append((number, entry))
    shared = by_choice[None]
    for choice, own in by_choice.items():
        held = replace(asked, schedule=())
        for number, entry in shared if choice is None else sorted([*shared, *own], key=itemgetter(0)):
            held = change_of(entry).over(held)
            yield number, held


def change_of(entry: ScheduledChange) -> Change:
    """An entry as a change, of no generation and no choice in particular."""
    return Change.from_wire({"generation_id": "", **entry.said})


def _entries(asked: Guidance, choice: ChoiceName | None) -> Iterator[ScheduledChange]:
    index = None if choice is None else asked.index_of(choice)
    return (entry for entry in asked.schedule if entry.choice in (None, index))
