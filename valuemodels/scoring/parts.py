"""What one sequence brings to a forward of the trunk. Imports torch alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """The tokens that a sequence has gained, and candidates after them.

    Attributes:
        stored: how many tokens of it the cache holds.
        gained: those that follow.
        candidates: [n] token ids.
        table: the cache's blocks for all of its tokens, then those borrowed for its candidates.
    """

    stored: int
    gained: Sequence[int]
    candidates: Tensor
    table: Sequence[int]
