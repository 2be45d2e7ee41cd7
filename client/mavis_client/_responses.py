"""What comes back: answers into models, error statuses and broken connections into exceptions. No I/O."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from mavis_client._retries import retry_after_seconds
from mavis_client.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ErrorInfo,
    MavisError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    ServerError,
)

ModelT = TypeVar("ModelT", bound=BaseModel)

_STATUS_ERRORS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitError,
}
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_LONGEST_EXCERPT = 200


def parse_reply(response: httpx.Response, model: type[ModelT]) -> ModelT:
    """The body of a successful answer.

    Raises:
        ProtocolError: it is not JSON, or not of this shape.
    """
    return parse_payload(response.content, model, _name(response.request))


def parse_payload(payload: bytes | Mapping[str, Any], model: type[ModelT], source: str) -> ModelT:
    """JSON text, or what it was parsed to, as a model. `source` names where it came from, for the message.

    Raises:
        ProtocolError: it is not JSON, or not of this shape.
    """
    try:
        return model.model_validate_json(payload) if isinstance(payload, bytes) else model.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise ProtocolError(f"{source}: {where}: {first['msg']} (got {first['input']!r:.80})") from None


def status_error(response: httpx.Response, now: float) -> APIStatusError:
    """The exception for an answer that is not a success; its body has been read.

    Args:
        now: seconds since the epoch, for a `Retry-After` that is a date.
    """
    status = response.status_code
    kind = _STATUS_ERRORS.get(status, ServerError if status >= 500 else APIStatusError)
    retry_after = response.headers.get("Retry-After")
    return kind(
        status,
        _body_error(response),
        None if retry_after is None else retry_after_seconds(retry_after, now),
        response.headers.get("X-Request-Id"),
    )


def connection_error(error: httpx.RequestError) -> MavisError:
    """The exception, caused by httpx's, for an answer that never came, came in part, or could not be decompressed."""
    message = f"{_name(error.request)}: {type(error).__name__}: {error}".rstrip(": ")
    failure: MavisError
    if isinstance(error, httpx.DecodingError):
        failure = ProtocolError(message)
    else:
        kind = APITimeoutError if isinstance(error, httpx.TimeoutException) else APIConnectionError
        failure = kind(message, request_sent=not isinstance(error, _NOT_SENT))
    failure.__cause__ = error
    return failure


def says_no(failure: MavisError) -> bool:
    """Whether a failed probe is an answer in itself: nothing is there, or the server said 503."""
    return isinstance(failure, APIConnectionError) or (isinstance(failure, ServerError) and failure.status_code == 503)


def error_info(payload: object) -> ErrorInfo | None:
    """What an error payload says: vLLM's envelope, its bare `{"error": "Unauthorized"}`, or FastAPI's `{"detail"}`.

    None where the payload is none of these.
    """
    if not isinstance(payload, Mapping):
        return None
    error = payload.get("error") or payload.get("detail")
    if not isinstance(error, Mapping):
        return ErrorInfo(str(error)) if error else None
    kind, param, code = error.get("type"), error.get("param"), error.get("code")
    return ErrorInfo(
        message=str(error.get("message") or "no message"),
        type=kind if isinstance(kind, str) else None,
        param=param if isinstance(param, str) else None,
        code=code if isinstance(code, int) else None,
    )


def _body_error(response: httpx.Response) -> ErrorInfo:
    try:
        info = error_info(json.loads(response.content))
    except ValueError:  # not JSON, or not text at all
        info = None
    return info or ErrorInfo(response.text.strip()[:_LONGEST_EXCERPT] or response.reason_phrase or "no message")


def _name(request: httpx.Request) -> str:
    """The request as messages show it: without what a URL may carry of names and passwords."""
    return f"{request.method} {request.url.netloc.decode('ascii')}{request.url.path}"
