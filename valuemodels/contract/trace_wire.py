"""How traces are asked for and told between the HTTP process and the workers. Standard library only."""

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class TokenRange(NamedTuple):
    """The tokens of one choice whose values are asked for.

    Attributes:
        start: index of the first one.
        token_ids: what the engine returned from there on. The worker may not know the last one: under asynchronous
            scheduling a place-holder stands for it until the next step, and after the last token there is none.
    """

    start: int
    token_ids: Sequence[int]


class Candidate(NamedTuple):
    """One candidate of a step.

    Attributes:
        logprob, tilted_logprob: on the candidates, before and after the tilt.
        advantages: one an objective.
    """

    token_id: int
    logprob: float
    tilted_logprob: float
    advantages: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CandidateColumns:
    """All candidates of one step, best first, as packed numbers: a fiftieth of what objects would take.

    Attributes:
        token_ids: [n] int32.
        numbers: [n, 2 + objectives] float32: `logprob`, `tilted_logprob` and the advantages of each.
    """

    token_ids: bytes
    numbers: bytes

    def __len__(self) -> int:
        """How many candidates there are."""
        return len(self.token_ids) // 4

    def to_wire(self) -> list[bytes]:
        """For msgpack."""
        return [self.token_ids, self.numbers]

    def unpack(self) -> list[Candidate]:
        """One record a candidate."""
        token_ids, numbers = array("i", self.token_ids), array("f", self.numbers)
        if not token_ids:
            return []
        width = len(numbers) // len(token_ids)
        rows = (numbers[at : at + width] for at in range(0, len(numbers), width))
        return [Candidate(token, row[0], row[1], tuple(row[2:])) for token, row in zip(token_ids, rows, strict=True)]


NO_CANDIDATES = CandidateColumns(b"", b"")

assert array("i").itemsize == array("f").itemsize == 4, f"{sys.platform} has other numbers"
