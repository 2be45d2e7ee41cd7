"""What every way of valuing candidates has in common: the batch it gets and the values it gives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from valuemodels.contract.value_config import ObjectiveConfig
from valuemodels.scoring.rows import Row
from valuemodels.tilting import Candidates
from valuemodels.transfers import to_device


@dataclass(frozen=True, slots=True)
class ScoringBatch:
    """The rows to score in one step.

    Attributes:
        candidates: of the rows, in their order.
        coefficients: [rows, objectives of the scorer] weight x beta x scale; temperature: [rows] > 0.
        hidden: [rows, hidden] the base model's final hidden states, from which its logits were made; None where
            nobody has captured them.
    """

    rows: Sequence[Row]
    candidates: Candidates
    coefficients: Tensor
    temperature: Tensor
    hidden: Tensor | None = None

    def select(self, places: Sequence[int]) -> "ScoringBatch":
        """The batch of some of the rows."""
        index = to_device(places, self.candidates.logits.device)
        candidates = Candidates(self.candidates.token_ids[index], self.candidates.logits[index])
        return ScoringBatch(
            [self.rows[place] for place in places],
            candidates,
            self.coefficients[index],
            self.temperature[index],
            None if self.hidden is None else self.hidden[index],
        )

    def of_objectives(self, start: int, stop: int) -> "ScoringBatch":
        """The batch for a scorer of some of the objectives."""
        if stop - start == self.coefficients.shape[1]:
            return self
        return replace(self, coefficients=self.coefficients[:, start:stop])


class Scorer(Protocol):
    """Values candidates: by reading each of them (exact), all at once from a hidden state (fast), or by both (hybrid).

    Attributes:
        scales: s_i of each objective for this way of scoring.
        gives_levels: whether a value is the expected final reward; else only differences between candidates count.
    """

    checkpoint_id: str
    objectives: tuple[ObjectiveConfig, ...]
    scales: tuple[float, ...]
    gives_levels: bool

    def score(self, batch: ScoringBatch) -> Tensor:
        """[rows, k, objectives] float32 values in standard deviations of the base's reward.

        Where a row has no candidate the value is arbitrary, but finite.
        """
        ...
