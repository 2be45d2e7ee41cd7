"""A mix of objectives: how much each of them matters. Standard library only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

from training.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Mix:
    """How much each of some objectives matters: shares that add up to 1."""

    shares: Mapping[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{name} {self.shares[name]:.2f}" for name in self.names)

    @property
    def names(self) -> list[str]:
        """Of the objectives that have a share."""
        return [name for name, share in self.shares.items() if share]

    @property
    def folder_name(self) -> str:
        """A name for a folder of its replies; mixes that only differ in objectives of no share have the same."""
        return "_".join(f"{name}-{self.shares[name]:.2f}" for name in sorted(self.names))

    def tilt(self, strength: float) -> dict[str, float]:
        """Weights that tilt towards it, of length `strength` whatever the mix, so that all of them cost about alike.

        Costs of tilts that have nothing to do with each other add up, and grow with the weights' squares.
        """
        length = sqrt(sum(share**2 for share in self.shares.values()))
        return {name: strength * self.shares[name] / length for name in self.names}


def parse_mix(field: str, text: str, names: Sequence[str]) -> Mix:
    """From "a=1,b=3": a quarter and three quarters.

    Args:
        field: names the text in messages; names: of the objectives there are.

    Raises:
        RecipeError: it is no mix of two or more of them, each once, with shares above 0.
    """
    parts = [part.partition("=") for part in text.split(",")]
    given = {name.strip(): _share(share) for name, _, share in parts}
    if len(given) < 2 or len(given) < len(parts) or not set(given) <= set(names) or min(given.values()) <= 0:
        allowed = f"two or more of {', '.join(names)}, each with a share above 0, as a=1,b=1"
        raise RecipeError(f"{field}: got {text!r}, allowed is {allowed}")
    whole = sum(given.values())
    return Mix({name: share / whole for name, share in given.items()})


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        return 0.0
    return share if isfinite(share) else 0.0
