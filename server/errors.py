"""What can go wrong in the HTTP process, on top of `valuemodels.contract.errors`, and the table from it to HTTP.

    MavisError
    ├── StartupError            the server cannot start; one sentence for the operator, exit code 2
    └── RequestError            one request fails; answered in vLLM's (OpenAI's) error envelope
        ├── BodyError           the body cannot be read at all, or is too large
        ├── HeaderError         the headers are too large
        ├── ApiKeyError         no API key, or a wrong one
        ├── RateError           this API key has had its share
        ├── BusyError           too much is waiting already
        ├── DrainingError       the server is about to stop
        ├── FieldError          a request field is wrong
        ├── LiveIdError         the chosen id belongs to a generation that is still running
        ├── UnknownIdError      there is no generation of this id, or it is forgotten
        ├── EndedError          the generation, or the choice, has ended and cannot be changed
        ├── NotOwnerError       the caller does not hold the generation's key
        ├── TracesLostError     the engine died, or the worker failed, before the values could be read
        ├── ValueFailureError   a value was no number, and the operator lets no answer go without
        ├── EngineLostError     the engine died, or the worker failed, before it had answered
        ├── ReplicaLostError    on a cluster: the server of a replica does not answer
        ├── CheckpointsError    value checkpoints cannot be served
        └── LoadingError        others are being loaded

No torch, no vLLM.
"""

from http import HTTPStatus
from typing import Any

from valuemodels.contract.errors import MavisError, cut, shown


class StartupError(MavisError):
    """The server cannot start; the message is one sentence for the operator."""


class RequestError(MavisError):
    """One request fails; the message is for the client.

    Attributes:
        param: what the envelope's `param` says, or None.
        retry_after_s: when the same request may do better, in whole seconds; None where it never will.
    """

    param: str | None = None
    retry_after_s: int | None = None


class BodyError(RequestError):
    """The request's body cannot be read at all, or is too large."""


class HeaderError(RequestError):
    """The request's headers are too large."""


class ApiKeyError(RequestError):
    """The request carries no API key, or a wrong one."""

    def __init__(self) -> None:
        super().__init__("this server wants an API key, in the header Authorization: Bearer KEY")


class _LaterError(RequestError):
    """Not now."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(f"{message}; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class RateError(_LaterError):
    """The request's API key has had its share for now."""


class BusyError(_LaterError):
    """Too many requests are waiting already."""


class DrainingError(_LaterError):
    """The server is about to stop, and takes no new requests."""


class FieldError(RequestError):
    """A request field is wrong.

    Attributes:
        param: dotted name of the field, as the client wrote it (`objective_weights.positivity`), cut where it is long.
        value, allowed: what was given, and what would have been accepted, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{cut(field)}: got {shown(value)}, allowed is {allowed}")
        self.param = cut(field)
        self.value = value
        self.allowed = allowed


class LiveIdError(RequestError):
    """The chosen id belongs to a generation that is still running."""

    param = "X-Request-Id"

    def __init__(self, generation_id: str) -> None:
        super().__init__(f"X-Request-Id: the generation {generation_id} is still running, choose another id")


class TracesLostError(RequestError):
    """The values of a generation could not be read from the engine; why stands in the log alone."""

    def __init__(self) -> None:
        super().__init__("the values of this generation could not be read from the engine")


class ValueFailureError(RequestError):
    """A value was no number, and the operator lets no answer go without; which one stands in the log."""

    def __init__(self) -> None:
        super().__init__("a value of this answer could not be computed, and this server gives no answer without it")


class UnknownIdError(RequestError):
    """There is no generation of this id, or it is forgotten."""

    param = "id"

    def __init__(self, generation_id: str) -> None:
        super().__init__(f"id: no generation {shown(generation_id)} is running or ended in the last minutes")


class EndedError(RequestError):
    """The generation, or the choice, has ended and cannot be changed."""

    param = "id"

    def __init__(self, generation_id: str, choice: int | None = None) -> None:
        what = "the generation" if choice is None else f"choice {choice} of the generation"
        super().__init__(f"id: {what} {generation_id} has ended, so nothing can be changed")


class NotOwnerError(RequestError):
    """The caller does not hold the generation's key."""

    param = "id"


class EngineLostError(RequestError):
    """The engine died, or the worker failed, before it had answered a call.

    Attributes:
        reason: for the log; it may hold paths and other things that are no client's business.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("the engine did not answer")
        self.reason = reason


class ReplicaLostError(_LaterError):
    """The server of one of a cluster's replicas does not answer; the cluster replaces it."""


class CheckpointsError(RequestError):
    """Value checkpoints cannot be served: they do not fit, or could not be loaded."""

    param = "checkpoints"

    def __init__(self, reason: str) -> None:
        super().__init__(f"checkpoints: {reason}")


class LoadingError(RequestError):
    """Other value checkpoints are being loaded."""

    param = "checkpoints"

    def __init__(self) -> None:
        super().__init__("checkpoints: others are being loaded; ask again when that has been answered")


_HTTP: dict[type[RequestError], tuple[HTTPStatus, str]] = {
    BodyError: (HTTPStatus.BAD_REQUEST, "BadRequestError"),
    HeaderError: (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "BadRequestError"),
    ApiKeyError: (HTTPStatus.UNAUTHORIZED, "AuthenticationError"),
    RateError: (HTTPStatus.TOO_MANY_REQUESTS, "RateLimitError"),
    BusyError: (HTTPStatus.TOO_MANY_REQUESTS, "RateLimitError"),
    DrainingError: (HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailableError"),
    FieldError: (HTTPStatus.BAD_REQUEST, "BadRequestError"),
    LiveIdError: (HTTPStatus.CONFLICT, "ConflictError"),
    UnknownIdError: (HTTPStatus.NOT_FOUND, "NotFoundError"),
    EndedError: (HTTPStatus.CONFLICT, "ConflictError"),
    NotOwnerError: (HTTPStatus.FORBIDDEN, "PermissionDeniedError"),
    EngineLostError: (HTTPStatus.INTERNAL_SERVER_ERROR, "InternalServerError"),
    ReplicaLostError: (HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailableError"),
    ValueFailureError: (HTTPStatus.INTERNAL_SERVER_ERROR, "InternalServerError"),
    TracesLostError: (HTTPStatus.INTERNAL_SERVER_ERROR, "InternalServerError"),
    CheckpointsError: (HTTPStatus.BAD_REQUEST, "BadRequestError"),
    LoadingError: (HTTPStatus.CONFLICT, "ConflictError"),
}


def envelope(error: RequestError) -> tuple[int, dict[str, Any]]:
    """HTTP status and body, in the shape that vLLM's own errors have."""
    status, kind = next(found for known in type(error).__mro__ if (found := _HTTP.get(known)))
    return status.value, {"error": {"message": str(error), "type": kind, "param": error.param, "code": status.value}}


def headers_of(error: RequestError) -> dict[str, str]:
    """What an answer to this error says in its headers."""
    if isinstance(error, ApiKeyError):
        return {"WWW-Authenticate": "Bearer"}
    return {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
