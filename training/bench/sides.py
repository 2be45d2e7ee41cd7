"""What is compared: the ways of asking for guidance, each beside what it is measured against. No torch, no vLLM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from training.errors import RecipeError
from valuemodels.contract.guidance import Guidance, Scoring

PLAIN, NO_WEIGHTS = "plain vLLM", "no weights"
PRUNED = 0.01
"""`candidate_min_p` of the pruned side."""
WEIGHT = 0.5
"""Of every objective, where weights are asked for."""


@dataclass(frozen=True, slots=True)
class Side:
    """One way of asking.

    Attributes:
        guidance: None asks for none.
        own_weights: every row has its own: the guidance's times a factor between 0 and 1.
        reference: the name of the side that it is compared with; "" for one that is only compared with.
    """

    name: str
    reference: str
    guidance: Guidance | None = None
    own_weights: bool = False

    @property
    def is_plain(self) -> bool:
        """True for vLLM without any of our code."""
        return self.name == PLAIN

    def guidance_of(self, row: int, rows: int) -> Guidance | None:
        """What one of the rows asks for."""
        if self.guidance is None or not self.own_weights:
            return self.guidance
        factor = (row + 1) / rows
        return replace(self.guidance, weights={name: factor * w for name, w in self.guidance.weights.items()})


def sides_of(names: Sequence[str], scorings: Sequence[Scoring]) -> list[Side]:
    """Every side for a checkpoint's objectives and scorings; references come before what is compared with them."""
    weights = dict.fromkeys(names, WEIGHT)
    asked = {scoring: Guidance("bench", weights=weights, scoring=scoring) for scoring in scorings}
    found = [Side(PLAIN, ""), Side(NO_WEIGHTS, PLAIN)]
    found += [Side(scoring, NO_WEIGHTS, guidance) for scoring, guidance in asked.items()]
    if (exact := asked.get("exact")) is not None:
        pruned = replace(exact, candidate_min_p=PRUNED)
        found.append(Side(f"exact, candidate_min_p {PRUNED}", NO_WEIGHTS, pruned))
    shared = "fast" if "fast" in asked else scorings[0]
    found.append(Side(f"{shared}, own weights in every row", shared, asked[shared], own_weights=True))
    return found


def picked(sides: Sequence[Side], names: Sequence[str]) -> list[Side]:
    """The sides without weights, those of these names, and what they are compared with; all where none is named.

    Raises:
        RecipeError: there is no such side.
    """
    with_weights = [side.name for side in sides if side.guidance is not None]
    for name in names:
        if name not in with_weights:
            raise RecipeError(f"--side: got {name!r}, allowed is {', '.join(map(repr, with_weights))}")
    wanted = {*names, *(side.reference for side in sides if side.name in names)}
    return [side for side in sides if not names or side.guidance is None or side.name in wanted]


def request_fields(guidance: Guidance | None) -> Mapping[str, object]:
    """The guidance as fields of an HTTP request."""
    if guidance is None:
        return {}
    fields: dict[str, object] = {"objective_weights": dict(guidance.weights), "scoring": guidance.scoring}
    return fields if guidance.candidate_min_p is None else {**fields, "candidate_min_p": guidance.candidate_min_p}
