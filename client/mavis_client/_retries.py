"""When a failed attempt is made again, and how long to wait before. Decisions only, no I/O.

A generation is repeated only where the server cannot have begun it, since it would be paid for twice: no connection
came about, or the server refused it with 429 or 503. (A 503 is a refusal from the server itself. A proxy may send it
after losing the server midway; then the work is done twice, which costs time and changes nothing.) A timeout, a
connection that broke after the request was sent, 502 and 504 say nothing about that, so they are repeated only
for reading calls. 408 and 409 would meet the same answer again. Once the first byte of an answer is there, nothing is
repeated.
"""

import math
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz

from mavis_client._requests import Repeat
from mavis_client.errors import APIConnectionError, APIStatusError, MavisError

_REFUSED = frozenset({429, 503})
_GATEWAY_FAILED = frozenset({502, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, or the server's `Retry-After`.

    Attributes:
        max_retries: attempts after the first.
        base_s, cap_s: before retry r (from 0) the wait is drawn from 0 .. min(cap_s, base_s * 2**r) seconds.
        max_retry_after_s: where the server asks for a longer wait than this, the error is raised at once.
        clock: seconds since the epoch.
        draw: a number from the closed interval of its two arguments.
    """

    max_retries: int = 2
    base_s: float = 0.5
    cap_s: float = 8.0
    max_retry_after_s: float = 60.0
    clock: Callable[[], float] = time.time
    draw: Callable[[float, float], float] = random.uniform

    def __post_init__(self) -> None:
        if isinstance(self.max_retries, bool) or not isinstance(self.max_retries, int) or self.max_retries < 0:
            raise ValueError(f"max_retries: got {self.max_retries!r}, allowed is an integer of at least 0")

    def wait_s(self, failure: MavisError, repeat: Repeat, retries_done: int) -> float | None:
        """Seconds until the next attempt; None where there is none and the failure is to be raised."""
        if retries_done >= self.max_retries or not may_repeat(failure, repeat):
            return None
        asked_s = failure.retry_after_s if isinstance(failure, APIStatusError) else None
        if asked_s is None:
            return self.draw(0.0, min(self.cap_s, self.base_s * 2.0**retries_done))
        if asked_s > self.max_retry_after_s:
            return None
        return asked_s + self.draw(0.0, self.base_s)  # never early, and not everybody at the same moment


def may_repeat(failure: MavisError, repeat: Repeat) -> bool:
    """Whether the attempt may be made again, as the module's docstring says."""
    if repeat == "never":
        return False
    if isinstance(failure, APIConnectionError):
        return repeat == "always" or not failure.request_sent
    if isinstance(failure, APIStatusError):
        again = _REFUSED | _GATEWAY_FAILED if repeat == "always" else _REFUSED
        return failure.status_code in again
    return False


def retry_after_seconds(header: str, now: float) -> float | None:
    """`Retry-After` as seconds from now, 0 where its date has passed, None where it is neither seconds nor a date.

    Args:
        now: seconds since the epoch.
    """
    header = header.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", header):
        return float(header)
    try:
        date = parsedate_tz(header)
        return None if date is None else max(0.0, math.ceil(mktime_tz(date) - now))
    except (ValueError, OverflowError):
        return None
