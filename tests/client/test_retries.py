"""When an attempt is made again and after how long. No test really waits."""

import math
from collections.abc import Callable

import httpx
import pytest

from mavis_client import APIConnectionError, APIStatusError, APITimeoutError, MavisError, RateLimitError
from mavis_client._requests import Repeat
from mavis_client._retries import RetryPolicy, may_repeat, retry_after_seconds
from mavis_client.errors import ErrorInfo, StreamError
from tests.client.kit import CHAT_REPLY, CHAT_STREAM, Script, Sdk, stream_response

Connect = Callable[..., Sdk]

OBJECTIVES = {"object": "list", "data": []}
NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def status(code: int, retry_after_s: float | None = None) -> APIStatusError:
    return APIStatusError(code, ErrorInfo("no"), retry_after_s)


@pytest.mark.parametrize(
    ("failure", "generation", "reading"),
    [
        (APIConnectionError("refused", request_sent=False), True, True),
        (APITimeoutError("no connection", request_sent=False), True, True),
        (APIConnectionError("reset"), False, True),
        (APITimeoutError("silent"), False, True),
        (status(429), True, True),
        (status(503), True, True),
        (status(502), False, True),
        (status(504), False, True),
        (status(500), False, False),
        (status(408), False, False),
        (status(409), False, False),
        (status(400), False, False),
        (StreamError(ErrorInfo("x")), False, False),
    ],
)
def test_a_generation_is_repeated_only_where_it_cannot_have_begun(
    failure: MavisError, generation: bool, reading: bool
) -> None:
    assert may_repeat(failure, "unless_begun") is generation
    assert may_repeat(failure, "always") is reading
    assert may_repeat(failure, "never") is False


def test_waits_grow_and_are_capped_and_drawn_from_the_whole_range() -> None:
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return high / 2

    policy = RetryPolicy(max_retries=6, base_s=0.5, cap_s=8.0, draw=draw)
    waits = [policy.wait_s(status(503), "unless_begun", done) for done in range(7)]
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, None]
    assert drawn == [(0.0, 0.5), (0.0, 1.0), (0.0, 2.0), (0.0, 4.0), (0.0, 8.0), (0.0, 8.0)]


def test_a_huge_number_of_retries_does_not_overflow_the_backoff() -> None:
    assert RetryPolicy(max_retries=10_000, draw=max).wait_s(status(503), "always", 1000) == 8.0


def test_retry_after_is_never_undercut_and_spread_a_little() -> None:
    policy = RetryPolicy(draw=lambda low, high: high)
    assert policy.wait_s(status(429, 7.0), "unless_begun", 0) == 7.5


def test_a_wait_that_is_too_long_is_left_to_the_caller() -> None:
    policy = RetryPolicy(max_retry_after_s=60.0, draw=min)
    assert policy.wait_s(status(429, 60.0), "unless_begun", 0) == 60.0
    assert policy.wait_s(status(429, 61.0), "unless_begun", 0) is None
    assert policy.wait_s(status(429, math.inf), "unless_begun", 0) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 1.5 ", 1.5),
        ("9" * 400, math.inf),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0),
        ("Tuesday, 14-Nov-23 22:13:30 GMT", 10.0),
        ("Tue Nov 14 22:13:30 2023", 10.0),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        ("-1", None),
        ("nan", None),
        ("1e9", None),
        ("soon", None),
        ("", None),
        ("Tue, 99 Nov 99999999999 22:13:30 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@pytest.mark.parametrize("value", [-1, 1.5, True, "2", None])
def test_a_wrong_number_of_retries_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"max_retries: got .* allowed is an integer of at least 0"):
        RetryPolicy(value)  # type: ignore[arg-type]


def test_a_refused_generation_is_sent_again_unchanged(connect: Connect) -> None:
    script = Script(
        httpx.ConnectError("refused"),
        httpx.Response(429, headers={"Retry-After": "3"}),
        httpx.Response(200, json=CHAT_REPLY),
    )
    sdk = connect(script)
    assert sdk.chat("hi", seed=1).text.startswith("Rain")
    first, second = sdk.slept
    assert 0 <= first <= 0.5
    assert 3 <= second <= 3.5
    assert script.bodies == [{"messages": [{"role": "user", "content": "hi"}], "stream": False, "seed": 1}] * 3


def test_a_stream_is_opened_again_where_it_was_refused(connect: Connect) -> None:
    sdk = connect(Script(503, stream_response([CHAT_STREAM])))
    with sdk.opened(sdk.client.chat_stream("hi")) as stream:
        assert stream.completion().text.startswith("Rain")
    assert len(sdk.slept) == 1


@pytest.mark.parametrize("outcome", [httpx.ReadTimeout(""), httpx.RemoteProtocolError(""), 502, 500])
def test_a_generation_that_may_have_begun_is_not_sent_again(connect: Connect, outcome: int | Exception) -> None:
    script = Script(outcome)
    sdk = connect(script)
    with pytest.raises(MavisError):
        sdk.complete("hi")
    assert len(script.requests) == 1
    assert sdk.slept == []


def test_reading_is_repeated_after_any_passing_failure(connect: Connect) -> None:
    script = Script(httpx.ReadTimeout(""), 504, httpx.Response(200, json=OBJECTIVES))
    assert connect(script).objectives() == []
    assert len(script.requests) == 3


def test_the_last_failure_is_raised_when_the_retries_are_used_up(connect: Connect) -> None:
    script = Script(*(httpx.Response(429, headers={"Retry-After": str(n)}) for n in (1, 2, 3)))
    sdk = connect(script)
    with pytest.raises(RateLimitError) as caught:
        sdk.chat("hi")
    assert caught.value.retry_after_s == 3.0
    assert len(sdk.slept) == 2


def test_a_date_is_measured_from_the_clock(connect: Connect) -> None:
    script = Script(httpx.Response(503, headers={"Retry-After": "Tue, 14 Nov 2023 22:15:20 GMT"}))
    sdk = connect(script)
    sdk.client._retries = RetryPolicy(clock=lambda: NOW)
    with pytest.raises(APIStatusError) as caught:
        sdk.chat("hi")
    assert caught.value.retry_after_s == 120.0
    assert sdk.slept == []


def test_no_retries_means_one_attempt(connect: Connect) -> None:
    script = Script(httpx.ConnectError("refused"))
    with pytest.raises(APIConnectionError):
        connect(script, max_retries=0).chat("hi")
    assert len(script.requests) == 1


def test_the_body_of_a_refusal_that_breaks_off_counts_as_a_broken_connection(connect: Connect) -> None:
    broken = stream_response([b'{"error'], httpx.ReadError("reset"))
    broken.status_code = 429
    sdk = connect(Script(broken))
    policy: Repeat = "unless_begun"
    with pytest.raises(APIConnectionError) as caught:
        sdk.chat("hi")
    assert not may_repeat(caught.value, policy)
