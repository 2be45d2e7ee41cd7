"""Changes to generations that are running: what one change says, and what all of them add up to.

The HTTP process checks a `Change` and sends it; both sides add it to the generation's `Overrides`. Standard library
only.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from valuemodels.contract.guidance import Guidance

WEIGHT_PREFIX = "objective_weights."
STRENGTH_FIELDS = frozenset({"beta", "kl_budget"})


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one running generation.

    Attributes:
        fields: dotted field (`objective_weights.positivity`, `beta`, `kl_budget`) -> what holds from now on; None is
            the operator's default. What is not named stays as it is.
        choice: "<prompt index>:<index within n>"; None: all choices, also those that have not begun.
    """

    generation_id: str
    fields: Mapping[str, float | None]
    choice: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """A plain dict with the same content, for msgpack."""
        return asdict(self)


@dataclass(slots=True)
class Overrides:
    """What all changes of one generation add up to, however many there were.

    Attributes:
        version: grows with every change.
    """

    version: int = 0
    _shared: dict[str, float | None] = field(default_factory=dict)
    _own: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def take(self, change: Change) -> None:
        """Add the next change. One for all choices takes the place of earlier ones for a single choice."""
        self.version += 1
        if change.choice is not None:
            self._own.setdefault(change.choice, {}).update(change.fields)
            return
        self._shared.update(change.fields)
        for own in self._own.values():
            for name in change.fields:
                own.pop(name, None)

    def over(self, asked: Guidance, choice: str) -> Guidance:
        """What holds for a choice of a request that began with `asked`."""
        fields = {**self._shared, **self._own.get(choice, {})}
        weights = dict(asked.weights)
        for name, weight in fields.items():
            if name.startswith(WEIGHT_PREFIX):
                objective = name.removeprefix(WEIGHT_PREFIX)
                weights.pop(objective, None)
                if weight is not None:
                    weights[objective] = weight
        strength: dict[str, Any] = {name: value for name, value in fields.items() if name in STRENGTH_FIELDS}
        return replace(asked, weights=weights, **strength)
