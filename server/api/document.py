"""`docs/http-api.md`, written from the models that the routes are declared with.

    python -m server.api.document docs/http-api.md        (or `make docs`)

A test fails when the file is not what this writes. Imports vLLM, and so takes some seconds; never imported by a server.
"""

import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from server.api import headers, offer_schema, schema
from server.requests.catalogue import NULLABLE
from server.requests.fields import GuidanceFields, ScheduleEntry
from valuemodels.contract import evaluation

INTRODUCTION = """# HTTP API

Written by `make docs` from the models in `server/api/schema.py`, `server/api/offer_schema.py` and
`server/requests/fields.py`; the running server tells the same at `/openapi.json`. Everything that is not on this page
is vLLM's own API, unchanged: see vLLM's documentation for the other fields and routes.

**What is stable.** Names, types and meanings on this page do not change within a major version; new fields may be added
to answers, and new optional ones to requests. The figures under `metrics` and `fast_metrics`, the wording of messages,
and metrics that Prometheus reads may change in any version. Fields called reserved may come to mean something.

**Errors** have vLLM's envelope, `{"error": {"message", "type", "param", "code"}}`. `message` names the field, the value
and what is allowed, `param` the field, `code` is the HTTP status. Any route may answer 401 (no API key, or a wrong one)
and 431 (headers too large), generating ones also 429 (too much is waiting, or the key has had its share) and 503 (the
server is about to stop), both with `Retry-After`. In a stream that has begun, an error is an event with
the same content, and `[DONE]` follows.
"""

ROUTES: tuple[tuple[str, str, str], ...] = (
    (
        "`POST /v1/chat/completions`, `POST /v1/completions`",
        "OpenAI's routes as vLLM serves them, with these fields on top (in the `openai` package: `extra_body`). "
        "Without weights, or with all of them 0, an answer is vLLM's bit for bit. Unknown fields that look like a slip "
        "of one of these are refused. `POST /invocations` is either of them, whichever the body fits.",
        "request",
    ),
    (
        "`GET /v1/objectives`",
        "The sliders that this server offers, as they hold under the caller's API key.",
        "objectives",
    ),
    (
        "`GET /v1/profiles`",
        "The named sets of fields that `profile` may name, with what people are told of them. `GET /` is a page that "
        "offers them as characters, with the sliders.",
        "profiles",
    ),
    (
        "`GET /v1/evaluations`",
        "What `mavis evaluate` has measured of the checkpoints that are served: `evaluation.json` in their folders.",
        "evaluations",
    ),
    (
        "`PATCH /v1/generations/{id}`",
        "Changes a generation while it runs; `id` is the completion's. The answer comes once the workers have taken "
        "the change over. 403 with another API key, or token, than the generation was started with; 404 where the id "
        "is unknown or forgotten, and to a request without any; 409 where nothing is left to change.",
        "change",
    ),
    (
        "`GET /v1/generations/{id}`",
        "What holds in a generation now, and the values of its tokens so far; until 5 minutes after its end. The same "
        "ownership as for `PATCH`. One answer tells of 16384 tokens at most: `?from_token=` with a choice's "
        "`next_token` reads on.",
        "state",
    ),
    (
        "`GET /v1/checkpoints`, `PUT /v1/checkpoints`",
        "Which value checkpoints are served, and others in their place while texts are written: a body of "
        '`{"checkpoints": ["name", ...]}`, answered once they are served. There only where the operator has set '
        "`MAVIS_ADMIN_KEY`, which both want in place of an API key (401). 400 where they do not fit, and nothing "
        "changes; 409 while others are being loaded.",
        "checkpoints",
    ),
    (
        "`GET /ready`, `GET /health`, `GET /metrics`",
        "`/ready` answers 200 while the engine and its workers answer, the value models are loaded and the server is "
        "not about to stop, else 503. `/health` and "
        "`/metrics` are vLLM's; our metrics begin with `mavis_`.",
        "ready",
    ),
)

_MODELS: dict[str, tuple[type[BaseModel], ...]] = {
    "objectives": (offer_schema.ObjectiveList, offer_schema.Objective),
    "profiles": (offer_schema.ProfileList, offer_schema.ListedProfile),
    "evaluations": (
        offer_schema.EvaluationList,
        evaluation.Evaluation,
        evaluation.MeasuredRow,
        evaluation.MeasuredSetting,
        evaluation.MeasuredObjective,
        evaluation.Interval,
    ),
    "change": (schema.GenerationChange, schema.GenerationChanged, schema.ChangedChoice),
    "state": (schema.GenerationState, schema.GenerationChoiceState),
    "checkpoints": (offer_schema.CheckpointList, offer_schema.ServedCheckpoint),
    "ready": (schema.Readiness,),
}
_BLOCK = (schema.MavisBlock, schema.TokenValues, schema.CandidateValues, schema.Steering, schema.MavisChunk)


def document() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, text, key in ROUTES:
        parts.append(f"## {title}\n\n{text}\n")
        parts += _request_parts() if key == "request" else [_model_part(model) for model in _MODELS[key]]
    return "\n".join(parts)


def documented_models() -> tuple[type[BaseModel], ...]:
    """Every model of ours that the page describes."""
    return (GuidanceFields, ScheduleEntry, *_BLOCK, *(model for models in _MODELS.values() for model in models))


def _request_parts() -> Iterator[str]:
    yield _table("field", [(n, _asked(n), _text(info)) for n, info in GuidanceFields.model_fields.items()])
    declared = [get_args(kind)[1] for kind in (headers.RequestId, headers.ChosenToken)]
    yield _table("header", [(header.alias, "text", header.description) for header in declared])
    yield _model_part(ScheduleEntry)
    yield (
        "A guided choice of the answer has a `mavis` block, and an answer to a request with any field of ours a "
        "`generation_token`, which in a stream stands in the first chunk. `logprobs` are the base model's, before the "
        f"tilt. {HTTPStatus.BAD_REQUEST.value} for a wrong field, {HTTPStatus.CONFLICT.value} for an id that is "
        "taken.\n"
    )
    yield from (_model_part(model) for model in _BLOCK)


def _asked(name: str) -> str:
    """A request field's type. None is pydantic's word for a field that was left out; as a value most refuse it."""
    kind = _type(GuidanceFields, name)
    return kind if name in NULLABLE else kind.replace(", or null", "").replace(" or null", "")


def _model_part(model: type[BaseModel]) -> str:
    rows = [(name, _type(model, name), _text(info)) for name, info in model.model_fields.items()]
    return f"### {model.__name__}\n\n{model.__doc__}\n\n{_table('field', rows)}"


def _table(head: str, rows: list[tuple[Any, ...]]) -> str:
    lines = [f"| {head} | type | meaning |", "|---|---|---|"]
    lines += ["| " + " | ".join((f"`{name}`", kind, text)) + " |" for name, kind, text in rows]
    return "\n".join(lines) + "\n"


def _text(info: FieldInfo) -> str:
    assert info.description, f"{info} has no description"
    return info.description


def _type(model: type[BaseModel], name: str) -> str:
    kind = _in_words(model.model_json_schema()["properties"][name])
    return kind if name in model.model_json_schema().get("required", ()) else f"{kind}, optional"


def _in_words(kind: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in kind:
        return f"[{kind['$ref'].rpartition('/')[2]}](#{kind['$ref'].rpartition('/')[2].lower()})"
    if "anyOf" in kind:
        options = [_in_words(option) for option in kind["anyOf"]]
        return (", or " if " or " in options[0] else " or ").join(options)
    if "const" in kind or "enum" in kind:
        return " or ".join(f'`"{value}"`' for value in kind.get("enum", [kind.get("const")]))
    if kind.get("type") == "array":
        return "two numbers" if "prefixItems" in kind else f"list of {_in_words(kind['items'])}"
    if kind.get("type") == "object":
        values = kind["additionalProperties"]
        return "object" if isinstance(values, bool) else f"object of {_in_words(values)}"
    name = str(kind["type"])
    return {"string": "text", "boolean": "true or false"}.get(name, name)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(document(), encoding="utf-8")
