"""The table from HTTP status to exception, and what is read from bodies of every kind."""

import pickle
from collections.abc import Callable

import httpx
import pytest

import mavis_client
from mavis_client import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    MavisError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    ServerError,
    StreamError,
)
from mavis_client.errors import ErrorInfo
from tests.client.kit import Script, Sdk

Connect = Callable[..., Sdk]

TABLE = {
    302: APIStatusError,
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: APIStatusError,
    409: ConflictError,
    413: APIStatusError,
    429: RateLimitError,
    500: ServerError,
    502: ServerError,
    503: ServerError,
    504: ServerError,
    529: ServerError,
}


@pytest.mark.parametrize("status", TABLE)
def test_each_status_has_its_exception(connect: Connect, status: int) -> None:
    envelope = {"error": {"message": "beta: got -1", "type": "BadRequestError", "param": "beta", "code": status}}
    sdk = connect(Script(httpx.Response(status, json=envelope, headers={"X-Request-Id": "r7"})), max_retries=0)
    with pytest.raises(APIStatusError) as caught:
        sdk.chat("hi")
    error = caught.value
    assert type(error) is TABLE[status]
    assert (error.status_code, error.message, error.type, error.param, error.code, error.request_id) == (
        status,
        "beta: got -1",
        "BadRequestError",
        "beta",
        status,
        "r7",
    )
    assert str(error) == f"{status}: beta: got -1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"error": "Unauthorized"}', "Unauthorized"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": [{"loc": ["body"]}]}', "[{'loc': ['body']}]"),
        (b'{"error": {"message": null, "param": 3, "code": "x"}}', "no message"),
        (b"<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[1, 2]", "[1, 2]"),
        (b'{"error": null}', '{"error": null}'),
        (b"", "Unauthorized"),
        (b"x" * 1000, "x" * 200),
    ],
)
def test_a_body_of_any_kind_gives_a_message(connect: Connect, content: bytes, message: str) -> None:
    sdk = connect(Script(httpx.Response(401, content=content)))
    with pytest.raises(AuthenticationError) as caught:
        sdk.objectives()
    assert caught.value.message == message
    assert caught.value.param is None


def test_a_status_without_body_and_without_name_still_has_a_message(connect: Connect) -> None:
    with pytest.raises(ServerError, match="599: no message"):
        connect(Script(599)).objectives()


def test_a_stream_that_is_refused_raises_on_entering(connect: Connect) -> None:
    sdk = connect(Script(httpx.Response(400, json={"error": {"message": "no", "param": "seed"}})))
    stream = sdk.client.chat_stream("hi")
    with pytest.raises(BadRequestError) as caught, sdk.opened(stream):
        pass
    assert caught.value.param == "seed"


@pytest.mark.parametrize(
    ("raised", "expected", "request_sent"),
    [
        (httpx.ConnectError("refused"), APIConnectionError, False),
        (httpx.ProxyError("403"), APIConnectionError, False),
        (httpx.ConnectTimeout(""), APITimeoutError, False),
        (httpx.PoolTimeout(""), APITimeoutError, False),
        (httpx.ReadTimeout(""), APITimeoutError, True),
        (httpx.WriteError("broken pipe"), APIConnectionError, True),
        (httpx.RemoteProtocolError("disconnected"), APIConnectionError, True),
    ],
)
def test_broken_connections_say_whether_the_request_was_sent(
    connect: Connect, raised: httpx.RequestError, expected: type[APIConnectionError], request_sent: bool
) -> None:
    sdk = connect(Script(raised), base_url="http://me:secret@mavis.test:81/prefix", max_retries=0)
    with pytest.raises(APIConnectionError) as caught:
        sdk.chat("hi")
    assert type(caught.value) is expected
    assert caught.value.request_sent is request_sent
    assert caught.value.__cause__ is raised
    assert str(caught.value).startswith("POST mavis.test:81/prefix/v1/chat/completions: " + type(raised).__name__)
    assert "secret" not in str(caught.value)


def test_a_body_that_cannot_be_decompressed_is_a_protocol_error(connect: Connect) -> None:
    zipped = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"not gzip"))
    with pytest.raises(ProtocolError, match="DecodingError"):
        connect(Script(zipped)).objectives()


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"data": [{"id": "x"}]}', b'{"data": 3}'])
def test_an_answer_of_another_shape_is_a_protocol_error_that_says_where(connect: Connect, content: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^GET mavis\.test/v1/objectives: "):
        connect(Script(httpx.Response(200, content=content))).objectives()


@pytest.mark.parametrize(
    "error",
    [
        APIConnectionError("gone", False),
        APITimeoutError("late"),
        BadRequestError(400, ErrorInfo("no", "T", "beta", 400), 1.5, "r"),
        StreamError(ErrorInfo("no", code=500)),
        ProtocolError("what"),
    ],
)
def test_exceptions_survive_pickling(error: MavisError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_the_tree_is_the_one_that_is_drawn() -> None:
    drawn: dict[str, str] = {}
    parents: list[str] = []
    for line in (mavis_client.errors.__doc__ or "").splitlines():
        stem = line.lstrip(" │├└─")
        if "Error" in stem[:25] and line.startswith("    "):
            depth = (len(line) - len(stem) - 4) // 4
            parents[depth:] = [stem.split()[0]]
            if depth:
                drawn[parents[-1]] = parents[-2]
    real = {
        kind.__name__: kind.__mro__[1].__name__
        for kind in vars(mavis_client.errors).values()
        if isinstance(kind, type) and issubclass(kind, MavisError) and kind is not MavisError
    }
    assert drawn == real
