"""The request fields that are ours, on top of OpenAI's and vLLM's, and which unknown fields look like a slip of them.

Runs in the HTTP process. No torch, no vLLM.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SkipValidation

from server.errors import FieldError
from valuemodels.contract.guidance import EXTRA_ARGS_KEY, Scoring

NEAR_MISS = 0.78  # difflib's ratio: `obj_weights` is .786 of `objective_weights`, `score` .67 of `scoring`
REQUEST_ID_HEADER = "X-Request-Id"
MAX_ID_LENGTH = 128
ALIASES = {"weights": "objective_weights", "objectives": "objective_weights", "kl": "kl_budget"}


class ScheduleEntry(BaseModel):
    """What changes at a token; one or more of the fields beside `from_token`."""

    from_token: int = Field(
        description="Index of the first token that it holds for; none below the one before, equal ones for different "
        "choices."
    )
    objective_weights: dict[str, float | None] | None = Field(
        default=None,
        description="Objective -> weight from there on; null is the operator's default, for one or for all.",
    )
    beta: float | None = Field(default=None, description="Strength from there on; null is the operator's default.")
    kl_budget: float | None = Field(default=None, description="Nats a token from there on; null is none.")
    choice: int | None = Field(
        default=None, description="Index of the one choice of the answer that it is for; all of them if left out."
    )


class GuidanceFields(BaseModel):
    """Our fields, typed for the OpenAPI page only.

    They are taken as they come (`SkipValidation`) and checked in one place, `Catalogue.check`, against what the
    operator allows: so every refusal names the field, the value and the allowed range, and no string is ever coerced
    into a number.
    """

    objective_weights: Annotated[dict[str, float] | None, SkipValidation] = Field(
        default=None,
        description="Objective -> weight, within the objective's bounds (`GET /v1/objectives`; -2 to 2 unless the "
        "operator has set others). What is left out keeps the operator's default.",
    )
    beta: Annotated[float | None, SkipValidation] = Field(
        default=None, description="Strength of the whole tilt, 0 to 10000; the operator's default (1) if left out."
    )
    candidates: Annotated[int | None, SkipValidation] = Field(
        default=None,
        description="How many of the base model's most likely tokens are scored at each step: 1 to the operator's "
        "maximum (64); the operator's default (40) if left out.",
    )
    candidate_min_p: Annotated[float | None, SkipValidation] = Field(
        default=None,
        description="0 to below 1: tokens of less than this share of the likeliest one's probability are no "
        "candidates: they need not be scored and cannot be sampled. The operator's default (0) if left out.",
    )
    kl_budget: Annotated[float | None, SkipValidation] = Field(
        default=None,
        description="Nats a token, above 0: at each step `beta` is lowered just enough that KL(tilted, base on the "
        "candidates) stays within it. Null for none.",
    )
    scoring: Annotated[Scoring | None, SkipValidation] = Field(
        default=None,
        description="How candidates are valued, where the checkpoints offer several; the server's default if left out.",
    )
    profile: Annotated[str | None, SkipValidation] = Field(
        default=None,
        description="A named set of these fields from the operator (`GET /v1/profiles`); the request's own fields "
        "win, weights one by one.",
    )
    schedule: Annotated[list[ScheduleEntry] | None, SkipValidation] = Field(
        default=None,
        description="What changes along the text: entries by rising `from_token`, each with one or more of "
        "`objective_weights`, `beta` and `kl_budget` from that token on; what it does not name stays as it was, and "
        "null is the operator's default. `mavis.steering` of an answer that was changed as it ran is such a list.",
    )
    return_values: Annotated[bool | Literal["candidates"], SkipValidation] = Field(
        default=False,
        description='True: what every token did for every objective, in `mavis.tokens`. "candidates": and what the '
        "tokens that were not sampled would have done.",
    )

    def guidance_fields(self) -> dict[str, Any]:
        """The fields of ours that the client wrote, also where it wrote null."""
        return {name: getattr(self, name) for name in GuidanceFields.model_fields if name in self.model_fields_set}


def refuse_unknown(extra: Mapping[str, Any], xargs: Mapping[str, Any] | None) -> None:
    """Refuse unknown body fields that are spelled like ours, and our reserved key among vLLM's extra arguments.

    Args:
        extra: the body's fields that neither vLLM nor we know.
        xargs: the body's `vllm_xargs`.

    Raises:
        FieldError: naming the field that was probably meant.
    """
    for name, value in extra.items():
        if meant := near_miss(name, GuidanceFields.model_fields):
            raise FieldError(name, value, f'no field of this name; did you mean "{meant}"?')
    if xargs and EXTRA_ARGS_KEY in xargs:
        allowed = "any other key: this one is reserved, use the request's own fields such as objective_weights"
        raise FieldError(f"vllm_xargs.{EXTRA_ARGS_KEY}", xargs[EXTRA_ARGS_KEY], allowed)


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """Which of the known names an unknown one was probably meant to be. camelCase and dashes count as snake_case."""
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    if plain in ALIASES:
        return ALIASES[plain]
    matches = difflib.get_close_matches(plain, known, n=1, cutoff=NEAR_MISS)
    return matches[0] if matches else None


def checked_id(chosen: Iterable[tuple[str, str | None]]) -> None:
    """Refuse ids that a client chose badly.

    Args:
        chosen: (where it stood, the id), None where the client chose none.

    Raises:
        FieldError: empty, too long, or with characters that do not print.
    """
    for where, value in chosen:
        if value is None or (0 < len(value) <= MAX_ID_LENGTH and value.isascii() and value.isprintable()):
            continue
        raise FieldError(where, value, f"1 to {MAX_ID_LENGTH} printable ASCII characters")
