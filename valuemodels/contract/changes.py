"""Changes to generations that are running: what one change says, and what all of them add up to.

The HTTP process checks a `Change` and sends it; both sides add it to the generation's `Overrides`. Standard library
only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from valuemodels.contract.guidance import ChoiceName, Guidance


class Keep(Enum):
    """What a change says of a field that it leaves as it is; None says that the operator's default holds again."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one running generation.

    Attributes:
        weights: objective -> the weight from now on; None is the operator's default. Others stay as they are.
        beta, kl_budget: from now on; None is the operator's default.
        choice: None: all choices, also those that have not begun.
    """

    generation_id: str
    weights: Mapping[str, float | None] = field(default_factory=dict)
    beta: float | Keep | None = KEEP
    kl_budget: float | Keep | None = KEEP
    choice: ChoiceName | None = None

    @property
    def said(self) -> dict[str, Any]:
        """What it changes, by the names that clients use; empty where it changes nothing."""
        weights = {"objective_weights": dict(self.weights)} if self.weights else {}
        strength = {"beta": self.beta, "kl_budget": self.kl_budget}
        return weights | {name: value for name, value in strength.items() if value is not KEEP}

    def to_wire(self) -> dict[str, Any]:
        """A plain dict with the same content, for msgpack."""
        choice = None if self.choice is None else str(self.choice)
        return {"generation_id": self.generation_id, "choice": choice, **self.said}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "Change":
        """Rebuild a change from `to_wire`'s dict.

        Raises:
            TypeError: a key is unknown or missing.
        """
        fields = dict(wire)
        choice, weights = fields.pop("choice", None), fields.pop("objective_weights", {})
        return cls(weights=weights, choice=None if choice is None else ChoiceName.parse(choice), **fields)

    def then(self, later: "Change") -> "Change":
        """Both changes, one after the other, as one."""
        return replace(
            self,
            weights={**self.weights, **later.weights},
            beta=self.beta if later.beta is KEEP else later.beta,
            kl_budget=self.kl_budget if later.kl_budget is KEEP else later.kl_budget,
        )

    def without(self, other: "Change") -> "Change":
        """What is left of it where `other` takes the place of all that it names."""
        return replace(
            self,
            weights={name: weight for name, weight in self.weights.items() if name not in other.weights},
            beta=self.beta if other.beta is KEEP else KEEP,
            kl_budget=self.kl_budget if other.kl_budget is KEEP else KEEP,
        )

    def over(self, asked: Guidance) -> Guidance:
        """The guidance that holds once this change is made to `asked`."""
        weights = {name: weight for name, weight in {**asked.weights, **self.weights}.items() if weight is not None}
        return replace(
            asked,
            weights=weights,
            beta=asked.beta if isinstance(self.beta, Keep) else self.beta,
            kl_budget=asked.kl_budget if isinstance(self.kl_budget, Keep) else self.kl_budget,
        )


@dataclass(slots=True)
class Overrides:
    """What all changes of one generation add up to, however many there were.

    Attributes:
        version: grows with every change.
    """

    version: int = 0
    _shared: Change = Change("")
    _own: dict[ChoiceName, Change] = field(default_factory=dict)

    def take(self, change: Change) -> None:
        """Add the next change. One for all choices takes the place of earlier ones for a single choice."""
        self.version += 1
        if change.choice is not None:
            self._own[change.choice] = self._own.get(change.choice, Change("")).then(change)
            return
        self._shared = self._shared.then(change)
        self._own = {choice: own.without(change) for choice, own in self._own.items()}

    def over(self, asked: Guidance, choice: ChoiceName) -> Guidance:
        """What holds for a choice of a request that began with `asked`."""
        return self._shared.then(self._own.get(choice, Change(""))).over(asked)
