"""The keywords of the generating methods: which request fields have one, and of what type. No I/O.

Values are sent as they are given, None as JSON null, and the server judges them; what is not given is not sent. Every
other field that the server knows goes through `extra_body`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import httpx

Messages = str | Sequence[Mapping[str, Any]]
"""What a user says, or a whole conversation in OpenAI's format."""

Prompt = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
"""One text, several, or the same as token ids."""

Weights = Mapping[str, float | None]
"""Objective -> weight; None is the operator's default."""

Timeout = float | httpx.Timeout
"""Seconds, or httpx's own object: the longest silence, not the length of the whole call."""


class CallOptions(TypedDict, total=False):
    """How to call; not fields of the request.

    Attributes:
        model: left out of the request where None: the server then uses its only model.
        timeout: for this call; None keeps the client's.
        extra_body: request fields that have no keyword.
        extra_headers: any others.
        request_id: becomes the generation's id, after "chatcmpl-" or "cmpl-"; one that is running already is refused.
        generation_token: 16 to 128 characters; with it the generation can be steered by whoever knows both. So an
            answer that is not streamed can be, too.
    """

    model: str | None
    timeout: Timeout | None
    extra_body: Mapping[str, Any] | None
    extra_headers: Mapping[str, str] | None
    request_id: str | None
    generation_token: str | None


class ChangeKeywords(TypedDict, total=False):
    """What to change in a running generation, beside weights.

    Attributes:
        beta, kl_budget: as in a request; None is the operator's default.
        choice: index of the only choice to change.
    """

    beta: float | None
    kl_budget: float | None
    choice: int


class GuidanceKeywords(TypedDict, total=False):
    """How to steer.

    Attributes:
        objective_weights: objective -> weight; names left out keep the operator's default.
        beta: strength of the whole tilt, 0 or more; the server's default is 1.
        candidates: how many of the base's most likely tokens are scored in each step.
        candidate_min_p: tokens of less than this share of the likeliest one's probability are no candidates.
        kl_budget: nats a token; each step lowers beta just enough to stay within it. None: no budget.
        scoring: which scorer, where the checkpoint offers several.
        profile: a named set of these fields from the server's configuration; the request's own fields win.
        schedule: what changes along the text: mappings with `from_token` and one or more of `objective_weights`, `beta`
            and `kl_budget`, by rising token; with a `choice`, for that one alone.
        return_values: True for a trace of every token in the answer, "candidates" for the candidates' values, too.
    """

    objective_weights: Mapping[str, float]
    beta: float
    candidates: int
    candidate_min_p: float
    kl_budget: float | None
    scoring: Literal["exact", "fast", "hybrid"]
    profile: str
    schedule: Sequence[Mapping[str, Any]]
    return_values: bool | Literal["candidates"]


class SamplingKeywords(CallOptions, GuidanceKeywords, total=False):
    """OpenAI's and vLLM's fields that chat and text completions share."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    max_tokens: int
    min_tokens: int
    n: int
    seed: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[str, float]
    response_format: Mapping[str, Any]
    stream_options: Mapping[str, Any]
    user: str


class ChatKeywords(SamplingKeywords, total=False):
    """Keywords of `chat` and `chat_stream`."""

    max_completion_tokens: int
    logprobs: bool
    top_logprobs: int
    tools: Sequence[Mapping[str, Any]]
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    chat_template_kwargs: Mapping[str, Any]


class CompletionKeywords(SamplingKeywords, total=False):
    """Keywords of `complete` and `complete_stream`."""

    logprobs: int
    echo: bool
    suffix: str
