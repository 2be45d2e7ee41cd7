"""Every exception the SDK raises on its own account. No I/O.

    MavisError
    ├── APIConnectionError          no answer came, or the connection broke in the middle of one
    │   └── APITimeoutError         nothing came for longer than the timeout
    ├── APIStatusError              the server answered with an error status
    │   ├── BadRequestError         400: `.param` names the field
    │   ├── AuthenticationError     401
    │   ├── PermissionDeniedError   403
    │   ├── NotFoundError           404
    │   ├── ConflictError           409
    │   ├── RateLimitError          429: `.retry_after_s` says when to come back
    │   └── ServerError             500 and above
    ├── StreamError                 an error event in the middle of a stream
    └── ProtocolError               an answer that does not keep to the contract

A call that is wrong before anything is sent (an unknown keyword, a weight that JSON cannot carry) raises `TypeError` or
`ValueError`, as any Python function does.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """The inside of the error envelope `{"error": {"message", "type", "param", "code"}}`, as far as it was there."""

    message: str
    type: str | None = None
    param: str | None = None
    code: int | None = None


class MavisError(Exception):
    """Base of all exceptions of this SDK."""


class APIConnectionError(MavisError):
    """No answer came, or the connection broke in the middle of one.

    Attributes:
        request_sent: False where the server cannot have seen the request, so that sending it again is safe.
    """

    def __init__(self, message: str, request_sent: bool = True) -> None:
        super().__init__(message, request_sent)
        self.request_sent = request_sent

    def __str__(self) -> str:
        return str(self.args[0])


class APITimeoutError(APIConnectionError):
    """Nothing came for longer than the timeout."""


class APIStatusError(MavisError):
    """The server answered with an error status; raised as itself for statuses without a class of their own.

    Attributes:
        status_code: HTTP status.
        message, type, param, code: from the error envelope; `param` names the field that was refused.
        retry_after_s: seconds after which the server wants to be asked again, where it said so.
        request_id: the answer's `X-Request-Id` header, where there was one.
    """

    def __init__(
        self, status_code: int, info: ErrorInfo, retry_after_s: float | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(status_code, info, retry_after_s, request_id)
        self.status_code = status_code
        self.message = info.message
        self.type = info.type
        self.param = info.param
        self.code = info.code
        self.retry_after_s = retry_after_s
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.status_code}: {self.message}"


class BadRequestError(APIStatusError):
    """400: a field is wrong; `param` names it."""


class AuthenticationError(APIStatusError):
    """401: the API key is missing or wrong."""


class PermissionDeniedError(APIStatusError):
    """403: the key is right, but not for this."""


class NotFoundError(APIStatusError):
    """404: no such route, model or generation."""


class ConflictError(APIStatusError):
    """409: the request does not fit the state of what it names, such as a request id that is live already."""


class RateLimitError(APIStatusError):
    """429: too many requests; `retry_after_s` says when to come back."""


class ServerError(APIStatusError):
    """500 and above: the server or a proxy before it failed."""


class StreamError(MavisError):
    """The server ended a running stream with an error event.

    Attributes:
        message, type, param, code: from the event's error envelope.
    """

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info)
        self.message = info.message
        self.type = info.type
        self.param = info.param
        self.code = info.code

    def __str__(self) -> str:
        return self.message


class ProtocolError(MavisError):
    """An answer does not keep to the contract: not JSON, a field missing, not an event stream."""
