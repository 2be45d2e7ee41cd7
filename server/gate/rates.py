"""How much each API key may ask for: requests in a time, and requests at once. `limits` does the counting in time.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import math
import time
from collections import Counter

from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from server.errors import RateError
from server.requests.keys import ApiKey


class Rates:
    """Counts the generating requests of keys that have a limit."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._at_once: Counter[str] = Counter()

    def enter(self, key: ApiKey) -> None:
        """A request of this key begins.

        Raises:
            RateError: it is one too many; nothing is counted then.
        """
        if key.concurrent is not None and self._at_once[key.name] >= key.concurrent:
            raise RateError(f"this API key may run {key.concurrent} requests at once", retry_after_s=1)
        for rate in key.rates:
            if not self._limiter.test(rate, key.name):
                free_at, _ = self._limiter.get_window_stats(rate, key.name)
                wait_s = max(1, math.ceil(free_at - time.time()))
                raise RateError(f"this API key may send {rate}", retry_after_s=wait_s)
        for rate in key.rates:
            self._limiter.hit(rate, key.name)
        self._at_once[key.name] += 1

    def leave(self, key: ApiKey) -> None:
        """A request of this key has ended."""
        self._at_once[key.name] -= 1
