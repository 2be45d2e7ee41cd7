"""The changes that a worker has taken over: what they add up to, by generation. Standard library only.

They are kept by the generation's id, so that they outlive a preemption and hold for choices that have not begun.
"""

from collections.abc import Iterable, Sequence

from valuemodels.contract.changes import Change, Overrides


class ChangedGenerations:
    """The overrides of a worker's generations, from the first change until the generation is dropped.

    Not bounded: a change is only taken for a generation that runs, and every one of those is dropped in the end.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Overrides] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, generation_id: str) -> Overrides | None:
        """None where nothing was changed."""
        return self._by_id.get(generation_id)

    def take(self, changes: Iterable[Change]) -> None:
        """Take over changes, in this order."""
        for change in changes:
            self._by_id.setdefault(change.generation_id, Overrides()).take(change)

    def drop(self, generation_ids: Sequence[str]) -> None:
        """Forget these generations; unknown ones are ignored."""
        for generation_id in generation_ids:
            self._by_id.pop(generation_id, None)
