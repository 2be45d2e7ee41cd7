"""What is sent: one `Call` for each call of a client's method. No I/O."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import httpx

from mavis_client._keywords import (
    CallOptions,
    ChangeKeywords,
    ChatKeywords,
    CompletionKeywords,
    Messages,
    Prompt,
    Timeout,
    Weights,
)

Repeat = Literal["always", "unless_begun", "never"]


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request.

    Attributes:
        repeat: whether a failed attempt may be made again: "always" where asking twice does no harm, "unless_begun"
            where the server would do the work twice.
        timeout: None keeps the client's.
    """

    method: str
    path: str
    repeat: Repeat
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: Timeout | None = None

    def on(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request as the given httpx client sends it."""
        timeout = http.timeout if self.timeout is None else self.timeout
        return http.build_request(
            self.method, self.path, content=self.body, headers=dict(self.headers), timeout=timeout
        )


OBJECTIVES = Call("GET", "/v1/objectives", repeat="always")
HEALTH = Call("GET", "/health", repeat="never")
READY = Call("GET", "/ready", repeat="never")

_TOKEN_HEADER = "X-Generation-Token"
_JSON_HEADER = {"Content-Type": "application/json"}


def chat_call(messages: Messages, keywords: ChatKeywords, *, stream: bool) -> Call:
    """`POST /v1/chat/completions`.

    Raises:
        TypeError: a keyword is unknown, or a value cannot be written as JSON.
        ValueError: a field is given twice, or a number is not finite.
    """
    _require_known(keywords, ChatKeywords.__optional_keys__)
    conversation = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    return _generation("/v1/chat/completions", {"messages": conversation, "stream": stream}, keywords)


def completion_call(prompt: Prompt, keywords: CompletionKeywords, *, stream: bool) -> Call:
    """`POST /v1/completions`. Raises as `chat_call` does."""
    _require_known(keywords, CompletionKeywords.__optional_keys__)
    return _generation("/v1/completions", {"prompt": prompt, "stream": stream}, keywords)


def generation_call(generation_id: str, token: str | None, from_token: int) -> Call:
    """`GET /v1/generations/{id}`."""
    path = _generation_path(generation_id) + (f"?from_token={from_token}" if from_token else "")
    return Call("GET", path, repeat="always", headers=_token_header(token))


def change_call(generation_id: str, token: str | None, weights: Weights | None, keywords: ChangeKeywords) -> Call:
    """`PATCH /v1/generations/{id}`. Not repeated where it may have come through: a later change may have, too.

    Raises:
        TypeError, ValueError: as `chat_call`.
    """
    _require_known(keywords, ChangeKeywords.__optional_keys__)
    body: dict[str, Any] = dict(keywords) if weights is None else {"objective_weights": weights, **keywords}
    headers = _JSON_HEADER | _token_header(token)
    return Call("PATCH", _generation_path(generation_id), repeat="unless_begun", body=_json(body), headers=headers)


def _generation_path(generation_id: str) -> str:
    return "/v1/generations/" + quote(generation_id, safe="")


def _token_header(token: str | None) -> dict[str, str]:
    return {} if token is None else {_TOKEN_HEADER: token}


def _require_known(keywords: Mapping[str, object], known: frozenset[str]) -> None:
    if unknown := sorted(keywords.keys() - known):
        raise TypeError(f"unknown keyword {unknown[0]!r}; a field that has no keyword goes into extra_body")


def _generation(path: str, content: Mapping[str, Any], keywords: ChatKeywords | CompletionKeywords) -> Call:
    fields = {name: value for name, value in keywords.items() if name not in CallOptions.__optional_keys__}
    body = {**content, **fields}
    if (model := keywords.get("model")) is not None:
        body["model"] = model
    extra = keywords.get("extra_body") or {}
    if twice := sorted(body.keys() & extra.keys()):
        raise ValueError(f"extra_body: {twice[0]!r} is already set by the method or by a keyword")
    return Call(
        "POST",
        path,
        repeat="unless_begun",
        body=_json({**body, **extra}),
        headers=_headers(keywords),
        timeout=keywords.get("timeout"),
    )


def _headers(keywords: CallOptions) -> dict[str, str]:
    request_id = keywords.get("request_id")
    chosen = {} if request_id is None else {"X-Request-Id": request_id}
    return {**_JSON_HEADER, **(keywords.get("extra_headers") or {}), **chosen} | _token_header(
        keywords.get("generation_token")
    )


def _json(body: Mapping[str, Any]) -> bytes:
    """The body as strict JSON; where a field cannot be written so, the error names it."""
    written = []
    for name, value in body.items():
        try:
            written.append(f"{json.dumps(name)}:{json.dumps(value, allow_nan=False, default=_as_dict)}")
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{name}: got {value!r:.80}, which JSON cannot carry: {error}") from None
    return ("{" + ",".join(written) + "}").encode()


def _as_dict(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is neither a number, a text, a list nor a mapping")
