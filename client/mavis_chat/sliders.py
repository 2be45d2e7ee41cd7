"""The sliders: which there are, where they stand, and what a key does to them. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mavis_client import Objective

STEP = 0.1
_WIDTH = 21


@dataclass
class Sliders:
    """A weight for every objective, and one of them chosen.

    Attributes:
        weights: objective -> weight; chosen: index of the one that keys move.
    """

    objectives: Sequence[Objective]
    weights: dict[str, float] = field(default_factory=dict)
    chosen: int = 0

    def __post_init__(self) -> None:
        self.weights = {each.id: each.default for each in self.objectives} | self.weights

    def press(self, key: str) -> dict[str, float]:
        """What a key changes: "up" and "down" choose, "left" and "right" move, "0" goes back to the default.

        Returns:
            the weights that are others now; empty where none is.
        """
        if key in ("up", "down"):
            self.chosen = (self.chosen + (1 if key == "down" else -1)) % len(self.objectives)
            return {}
        objective = self.objectives[self.chosen]
        before = self.weights[objective.id]
        moved = {"left": before - STEP, "right": before + STEP, "0": objective.default}.get(key, before)
        return self.set({objective.id: moved})

    def set(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Set some weights, each within its bounds; returns those that are others now."""
        bounds = {each.id: each.bounds for each in self.objectives}
        within = {
            name: round(min(max(weight, bounds[name][0]), bounds[name][1]), 6) for name, weight in weights.items()
        }
        changed = {name: weight for name, weight in within.items() if weight != self.weights[name]}
        self.weights |= changed
        return changed

    def lines(self) -> list[str]:
        """A line for each slider, as the terminal shows it."""
        width = max(len(each.id) for each in self.objectives)
        return [self._line(number, each, width) for number, each in enumerate(self.objectives)]

    def _line(self, number: int, objective: Objective, width: int) -> str:
        low, high = objective.bounds
        weight = self.weights[objective.id]
        at = 0 if high == low else round((weight - low) / (high - low) * (_WIDTH - 1))
        bar = "─" * at + "●" + "─" * (_WIDTH - 1 - at)
        return f"{'▸' if number == self.chosen else ' '} {objective.id:<{width}} {bar} {weight:+.2f}"
