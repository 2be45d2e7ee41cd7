"""What `mavis bench step` times, and what it finds. Standard library only."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step scores.

    Attributes:
        context: tokens of every sequence; candidates: k, of every row.
        objectives: heads on the one trunk.
    """

    rows: int
    candidates: int
    context: int
    objectives: int


@dataclass(frozen=True, slots=True)
class StepTiming:
    """Medians, in ms.

    Attributes:
        step: one decoding step of exact scoring.
        matmuls: the products of the trunk's and the head's weights with as many tokens, and of attention's queries with
            keys and weights with values; nothing else.
    """

    shape: StepShape
    step: float
    matmuls: float

    @property
    def over_limit(self) -> float:
        """What a step costs over its matrix products."""
        return self.step / self.matmuls
