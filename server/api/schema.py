"""What our routes answer and take, as pydantic models: the source of `/openapi.json` and of `docs/http-api.md`.

The answers themselves are plain dicts, since a stream writes one a token; a test holds them against these models.

Runs in the HTTP process. No torch.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse, ChatCompletionResponseChoice
from vllm.entrypoints.openai.completion.protocol import CompletionResponse, CompletionResponseChoice

from valuemodels.contract.guidance import Scoring

Numbers = dict[str, float]
"""Objective -> number."""

Advantages = Annotated[
    Numbers | None,
    Field(
        description="Objective -> what this token did for it: its value minus the base model's expectation over the "
        "candidates, in standard deviations of the base model's reward. Null where the token was not scored."
    ),
]


class Answer(BaseModel):
    """Base of all: no field that is not named here."""

    model_config = ConfigDict(extra="forbid")


class CandidateValues(Answer):
    """A token that could have been sampled; `return_values: "candidates"`."""

    token_id: Annotated[int, Field(description="The token.")]
    logprob: Annotated[
        float | None, Field(description="Under the base model, renormalised on the candidates; null for -inf.")
    ]
    tilted_logprob: Annotated[float | None, Field(description="The same after the tilt.")]
    values: Annotated[Numbers, Field(description="As a token's `values`.")]


class TokenValues(Answer):
    """One sampled token; with `return_values`."""

    token_id: Annotated[int, Field(description="The token.")]
    kl: Annotated[
        float | None, Field(description="KL(tilted, base on the candidates) of this step, in nats; 0 where not tilted.")
    ]
    values: Advantages
    levels: Annotated[
        Numbers | None,
        Field(
            description="Objective -> expected final reward after this token, in its own units. Exact scoring only; "
            "null where the token was the only candidate: nothing had to be scored."
        ),
    ] = None
    dropped_mass: Annotated[
        float | None,
        Field(
            description="Probability that the base model gave to the candidates which `candidate_min_p` left out, "
            "renormalised on all of them. Only in answers to requests with a `candidate_min_p` above 0."
        ),
    ] = None
    candidates: Annotated[
        list[CandidateValues] | None,
        Field(description='All scored tokens of this step, the likeliest first; with `return_values: "candidates"`.'),
    ] = None


class Steering(Answer):
    """What held from a token on, until the next entry's."""

    from_token: Annotated[int, Field(description="Index of the first token it held for.")]
    objective_weights: Annotated[Numbers, Field(description="The weights, the operator's defaults included.")]
    beta: Annotated[float, Field(description="Strength.")]
    kl_budget: Annotated[float | None, Field(description="Nats a token; null for none.")]


class MavisBlock(Answer):
    """`mavis` of a choice. In a stream, chunks carry `tokens` and `steering` as they come, the last one the totals."""

    objective_weights: Annotated[Numbers, Field(description="The weights that held at last, defaults included.")]
    beta: Annotated[float, Field(description="Strength that held at last.")]
    kl_budget: Annotated[
        float | None, Field(description="Nats a token that hold now; `GET /v1/generations/{id}` only.")
    ] = None
    scoring: Annotated[Scoring, Field(description="How candidates were valued.")]
    checkpoint: Annotated[str, Field(description='Id of the value checkpoint; of several, joined by "+".')]
    kl: Annotated[
        float | None, Field(description="Sum over the tokens, in nats; null where it is not known for all of them.")
    ]
    values: Annotated[
        Numbers,
        Field(
            description="Objective -> sum of the tokens' `values`: what the sampled tokens did for it; empty where "
            "that is not known for all of them."
        ),
    ]
    fallback_tokens: Annotated[
        int,
        Field(
            description="How many tokens were sampled from the base model alone, since a value could not be computed: "
            "0 unless something is wrong with a value model."
        ),
    ] = 0
    pinned: Annotated[
        Numbers | None,
        Field(
            description="Objective -> the strength (weight x beta) that the operator holds it to at least, whatever "
            "the request, a change or a KL budget says; absent where there is none."
        ),
    ] = None
    tokens: Annotated[list[TokenValues] | None, Field(description="One entry a token; with `return_values`.")] = None
    steering: Annotated[
        list[Steering] | None, Field(description="What held for which tokens; where something was changed.")
    ] = None


class MavisChunk(Answer):
    """`mavis` of a choice in a chunk that is not its last: the tokens whose values have arrived."""

    tokens: Annotated[list[TokenValues], Field(description="Since the chunk before.")]
    steering: Annotated[list[Steering] | None, Field(description="What held for them, where it was changed.")] = None


class GuidedChatChoice(ChatCompletionResponseChoice):
    """vLLM's choice, and what guided it."""

    mavis: Annotated[MavisBlock | None, Field(description="Absent where nothing guided the answer.")] = None


class GuidedCompletionChoice(CompletionResponseChoice):
    """vLLM's choice, and what guided it."""

    mavis: Annotated[MavisBlock | None, Field(description="Absent where nothing guided the answer.")] = None


GenerationToken = Annotated[
    str | None,
    Field(description="Proves the ownership of this generation where the server has no API keys; in the first chunk."),
]


class GuidedChatCompletionResponse(ChatCompletionResponse):
    """OpenAI's chat completion as vLLM answers it, with our two additions."""

    choices: list[GuidedChatChoice]
    generation_token: GenerationToken = None


class GuidedCompletionResponse(CompletionResponse):
    """OpenAI's completion as vLLM answers it, with our two additions."""

    choices: list[GuidedCompletionChoice]
    generation_token: GenerationToken = None


class GenerationChange(Answer):
    """What to change of a running generation: what is named changes, what is not stays."""

    objective_weights: Annotated[
        dict[str, float | None] | None,
        Field(description="Objective -> weight from now on; null is the operator's default, for one or for all."),
    ] = None
    beta: Annotated[float | None, Field(description="Strength from now on; null is the operator's default.")] = None
    kl_budget: Annotated[float | None, Field(description="Nats a token from now on; null is none.")] = None
    choice: Annotated[
        int,
        Field(
            description="Index of the one choice to change, from 0; left out, all of them, begun or not.",
            json_schema_extra=lambda field: field.pop("default"),
        ),
    ] = -1


class ChangedChoice(Answer):
    """From where a change holds in one choice."""

    index: Annotated[int, Field(description="The choice.")]
    effective_from_token: Annotated[int, Field(description="Index of its first token that the change holds for.")]


class GenerationChanged(Answer):
    """A change that the workers have taken over."""

    id: Annotated[str, Field(description="The generation.")]
    effective_from_token: Annotated[int, Field(description="From here on it holds in every choice that it is about.")]
    choices: Annotated[list[ChangedChoice], Field(description="The running choices that it is about.")]


class GenerationChoiceState(Answer):
    """One choice of a generation as it stands."""

    index: Annotated[int, Field(description="The choice.")]
    finished: Annotated[bool, Field(description="Whether the engine will sample no more for it.")]
    next_token: Annotated[
        int | None,
        Field(description="Where there is more to tell than one answer holds: `from_token` of the next one."),
    ] = None
    mavis: Annotated[MavisBlock, Field(description="What holds now, and everything known of its tokens so far.")]


class GenerationState(Answer):
    """A generation as it stands."""

    id: Annotated[str, Field(description="The completion's id.")]
    object: Annotated[Literal["generation"], Field(description="Always this.")]
    status: Annotated[Literal["running", "finished"], Field(description="Whether anything can still be changed.")]
    choices: Annotated[list[GenerationChoiceState], Field(description="All its choices, begun or not.")]


class Readiness(Answer):
    """Whether requests can be answered."""

    status: Annotated[Literal["ready", "unavailable"], Field(description="200 for ready, 503 for unavailable.")]
    reason: Annotated[str | None, Field(description="Why not.")] = None
