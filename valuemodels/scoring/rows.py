"""One row of a step's logits, as an adapter tells the guide of it. No vLLM."""

from collections.abc import Sequence
from dataclasses import dataclass

from valuemodels.contract.guidance import ChoiceName, ResolvedGuidance

UNKNOWN_TOKEN = -1
"""One that has been sampled, and is not on the host yet: what vLLM puts in its place, too."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of this step's logits.

    Attributes:
        index: the row's place in the logits.
        sequence_id: the engine's id of the request behind it.
        generation_id: empty where nobody will ask for a trace.
        temperature: 0 = greedy.
        prompt, output: token ids; `output` is a live list. They may be unknown where only fast scoring reads the row.
        last_token: the token that ends the sequence.
        drafts: tokens that are only proposed to follow the output, and that this row comes after.
        line: where the guide keeps what the row asks for: a place that it has for longer than its place in the logits.
            None is that place.
        cache_salt: what is read of it is kept for sequences of the same salt alone.
    """

    index: int
    sequence_id: str
    generation_id: str
    choice: ChoiceName
    guidance: ResolvedGuidance
    temperature: float
    prompt: Sequence[int]
    output: Sequence[int]
    last_token: int = 0
    drafts: tuple[int, ...] = ()
    line: int | None = None
    cache_salt: str = ""

    @property
    def kept_at(self) -> int:
        """Its line."""
        return self.index if self.line is None else self.line

    @property
    def position(self) -> int:
        """The index, among the sampled tokens, of the one that this row chooses."""
        return len(self.output) + len(self.drafts)

    @property
    def token_ids(self) -> list[int]:
        """The sequence up to there."""
        return [*self.prompt, *self.output, *self.drafts]

    @property
    def read_as(self) -> str:
        """Names the sequence for a value model: one that goes on with drafts is another, beside the first."""
        return f"{self.sequence_id}+{len(self.drafts)}" if self.drafts else self.sequence_id
