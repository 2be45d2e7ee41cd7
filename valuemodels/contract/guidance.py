"""What one request asks of the value models. Standard library only.

The HTTP process checks and sends a `Guidance`; the worker resolves it by the same `GuidancePolicy` into what holds.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

EXTRA_ARGS_KEY = "mavis"
"""The key of `SamplingParams.extra_args` under which a `Guidance` travels to the worker."""

Scoring = Literal["exact", "fast", "hybrid"]
TraceDetail = Literal["totals", "values", "candidates"]


class ChoiceName(NamedTuple):
    """One choice of a generation: its prompt's place in the call, and its own place within the prompt's `n`."""

    prompt: int
    child: int

    def __str__(self) -> str:
        """As it stands in messages between processes, whose keys are texts."""
        return f"{self.prompt}:{self.child}"

    @classmethod
    def parse(cls, text: str) -> "ChoiceName":
        """The choice whose `str` this is."""
        prompt, child = text.split(":")
        return cls(int(prompt), int(child))


@dataclass(frozen=True, slots=True)
class ScheduledChange:
    """An entry of a request's schedule.

    Attributes:
        said: what changes from that token on, by the names that clients use: `objective_weights`, `beta`, `kl_budget`.
            None is the operator's default.
        choice: the one choice that it is for, by its index in the response; None is all of them.
    """

    from_token: int
    said: Mapping[str, Any]
    choice: int | None = None


@dataclass(frozen=True, slots=True)
class Guidance:
    """The guidance of one request, as the client asked for it. `None` means: not said, the operator's default holds.

    An instance is also the proof that our own code made it: JSON can carry a dict into `vllm_xargs`, never this type.

    Attributes:
        generation_id: id of the generation the request belongs to; choices and prompts of one call share it.
        weights: objective name -> weight; objectives left out keep the operator's default.
        beta: strength, >= 0.
        candidates: how many of the base's most likely tokens are scored, k.
        candidate_min_p: those of less than this share of the likeliest one's probability are no candidates.
        kl_budget: nats a token: beta is lowered at each step to keep KL(tilted, base on the candidates) within it.
        scoring: which scorer, where the checkpoint offers several.
        trace: how much of what was scored is kept for the response.
        prompt_index: which prompt of the call this is.
        key: name of the API key that the request came with, where that key has rules of its own.
        schedule: what changes along the text, by rising token; see `valuemodels.contract.schedule`.
        n: choices of each prompt.
        offer: number of the offer of objectives that it was checked against.
        cache_salt: the request's own, as vLLM has it: what is kept of it is shared with requests of the same alone.
    """

    generation_id: str
    weights: Mapping[str, float] = field(default_factory=dict)
    beta: float | None = None
    candidates: int | None = None
    kl_budget: float | None = None
    scoring: Scoring | None = None
    trace: TraceDetail = "totals"
    prompt_index: int = 0
    key: str | None = None
    candidate_min_p: float | None = None
    schedule: tuple[ScheduledChange, ...] = ()
    n: int = 1
    offer: int = 0
    cache_salt: str | None = None

    def index_of(self, choice: ChoiceName) -> int:
        """The place of a choice in the response."""
        return choice.prompt * self.n + choice.child

    @classmethod
    def from_wire(cls, wire: "Guidance | Mapping[str, Any]") -> "Guidance":
        """Rebuild what msgpack made of a `Guidance` on its way into the worker.

        Raises:
            TypeError: a key is unknown or `generation_id` is missing.
        """
        if isinstance(wire, Guidance):
            return wire
        return cls(**{**wire, "schedule": tuple(ScheduledChange(**entry) for entry in wire.get("schedule", ()))})

    def to_wire(self) -> dict[str, Any]:
        """A plain dict with the same content, for msgpack and JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ResolvedGuidance:
    """A `Guidance` with every blank filled in by the operator's policy.

    Attributes:
        weights: one weight an objective, in the policy's order.
        strengths: per objective weight x beta, within what the operator allows; what the tilt is made of.
        pins: per objective the part of its strength that no KL budget lowers; 0 unless the operator has set a floor.
        has_schedule: the request has one, so it is followed also where it tilts nothing yet.
    """

    weights: tuple[float, ...]
    beta: float
    candidates: int
    kl_budget: float | None
    scoring: Scoring
    trace: TraceDetail
    strengths: tuple[float, ...]
    pins: tuple[float, ...]
    candidate_min_p: float = 0.0
    has_schedule: bool = False

    @property
    def is_plain(self) -> bool:
        """True where the tilt is zero whatever the values are: such a request is plain vLLM, bit for bit."""
        return not any(self.strengths)

    @property
    def shows_tokens(self) -> bool:
        """True where the response tells the values of every token."""
        return self.trace != "totals"

    @property
    def needs_values(self) -> bool:
        """True where a request is tilted, or may be later, or wants to see the values of an untilted answer."""
        return not self.is_plain or self.shows_tokens or self.has_schedule
