"""What the server answers, as pydantic models. No I/O.

Known fields are typed; fields that a newer server adds are kept and can be read. Requests are not checked here.
"""

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Values = dict[str, float]
"""Objective name -> value, in standard deviations of the base model's reward."""


class Answer(BaseModel):
    """Base of all: unknown fields are kept, nothing can be assigned."""

    model_config = ConfigDict(extra="allow", frozen=True)


class CandidateTrace(Answer):
    """One of the tokens that could have been sampled in a step.

    Attributes:
        logprob: under the base model, renormalised on the candidates; None where it is -inf.
        tilted_logprob: the same after the tilt.
        values: centred values, see `TokenTrace`.
    """

    token_id: int
    logprob: float | None = None
    tilted_logprob: float | None = None
    values: Values = Field(default_factory=dict)


class TokenTrace(Answer):
    """One sampled token; sent with `return_values`.

    Attributes:
        kl: KL(tilted, base on the candidates) of this step, nats.
        values: the token's value minus the base's expectation over the candidates; None where the token was not among
            the scored candidates.
        levels: the expected final reward after this token; only with exact scoring.
        dropped_mass: the base's probability of the candidates that `candidate_min_p` left out; None without one.
        candidates: only with `return_values="candidates"`.
    """

    token_id: int
    kl: float | None = None
    values: Values | None = None
    levels: Values | None = None
    dropped_mass: float | None = None
    candidates: list[CandidateTrace] | None = None


class Steering(Answer):
    """What held from a token on, until the next entry's."""

    from_token: int
    objective_weights: Values = Field(default_factory=dict)
    beta: float | None = None
    kl_budget: float | None = None


class Mavis(Answer):
    """How a choice was guided, and what that did. In a stream, totals stand in a choice's last chunk only.

    Attributes:
        objective_weights: the weights that held, at last, the operator's defaults included.
        kl: sum over the choice's tokens, nats.
        values: sum over the choice's tokens of their centred values: what the sampled tokens did for each objective.
        fallback_tokens: how many tokens are the base model's own, since a value could not be computed.
        pinned: strength (weight x beta) that the operator holds an objective to at least; {} where there is none.
        tokens: one entry a token; empty unless asked for with `return_values`.
        steering: what held for which tokens; empty where nothing was changed while it ran.
    """

    objective_weights: Values = Field(default_factory=dict)
    beta: float | None = None
    scoring: str | None = None
    checkpoint: str | None = None
    kl: float | None = None
    values: Values = Field(default_factory=dict)
    fallback_tokens: int = 0
    pinned: Values = Field(default_factory=dict)
    tokens: list[TokenTrace] = Field(default_factory=list)
    steering: list[Steering] = Field(default_factory=list)


class Usage(Answer):
    """Tokens read and written."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None
    total_tokens: int = 0


class FunctionCall(Answer):
    """The function of a tool call; `arguments` is JSON text, in a stream a piece of it."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(Answer):
    """One tool call; in a stream a piece of one, to be joined by `index`."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionCall | None = None


class Message(Answer):
    """What the model said; in a stream, what it said since the last chunk."""

    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None


class TokenLogprob(Answer):
    """Log-probability of a token under the base model."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list["TokenLogprob"] | None = None


class ChatLogprobs(Answer):
    """Log-probabilities of a chat choice."""

    content: list[TokenLogprob] | None = None


class CompletionLogprobs(Answer):
    """Log-probabilities of a text choice: parallel lists, one entry a token."""

    tokens: list[str] = Field(default_factory=list)
    token_logprobs: list[float | None] = Field(default_factory=list)
    text_offset: list[int] = Field(default_factory=list)
    top_logprobs: list[Values | None] = Field(default_factory=list)


class _Choice(Answer):
    index: int
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    mavis: Mavis | None = None


class ChatChoice(_Choice):
    """One of the `n` answers of a chat completion."""

    message: Message
    logprobs: ChatLogprobs | None = None

    @property
    def text(self) -> str:
        """The message's content; "" where there is none."""
        return self.message.content or ""


class ChatChunkChoice(_Choice):
    """What a chunk brings for one choice."""

    delta: Message = Field(default_factory=Message)
    logprobs: ChatLogprobs | None = None

    @property
    def text(self) -> str:
        """The delta's content; "" where there is none."""
        return self.delta.content or ""


class CompletionChoice(_Choice):
    """One of the answers of a text completion, or what a chunk brings for it.

    Choice `i` of prompt `p` has the index `p * n + i`.
    """

    text: str = ""
    logprobs: CompletionLogprobs | None = None


ChoiceT = TypeVar("ChoiceT", ChatChoice, ChatChunkChoice, CompletionChoice)


class _Generation(Answer, Generic[ChoiceT]):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChoiceT]
    usage: Usage | None = None
    generation_token: str | None = None

    @property
    def text(self) -> str:
        """The text of the choice with index 0; "" where there is none."""
        return next((choice.text for choice in self.choices if choice.index == 0), "")

    @property
    def _mavis(self) -> Mavis:
        return next((choice.mavis for choice in self.choices if choice.index == 0 and choice.mavis), Mavis())


class Reply(_Generation[ChoiceT]):
    """A whole answer."""

    @property
    def values(self) -> Values:
        """What the tokens of the choice with index 0 did for each objective; {} where it was not guided."""
        return self._mavis.values


class Chunk(_Generation[ChoiceT]):
    """One event of a stream. It may bring no choice at all, such as the one with the usage."""

    @property
    def tokens(self) -> list[TokenTrace]:
        """The traces that this chunk brings for the choice with index 0; [] without `return_values`."""
        return self._mavis.tokens

    @property
    def values(self) -> Values:
        """What this chunk's tokens did for each objective: the sum over `tokens`, {} without any."""
        sums: Values = {}
        for token in self.tokens:
            for name, value in (token.values or {}).items():
                sums[name] = sums.get(name, 0.0) + value
        return sums


class ChatCompletion(Reply[ChatChoice]):
    """The answer to `chat`."""


class Completion(Reply[CompletionChoice]):
    """The answer to `complete`."""


class ChatCompletionChunk(Chunk[ChatChunkChoice]):
    """One event of `chat_stream`."""


class CompletionChunk(Chunk[CompletionChoice]):
    """One event of `complete_stream`."""
