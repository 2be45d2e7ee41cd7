"""Says when a log line is one too many, so that whoever can cause it cannot fill a disk. Standard library only."""

import time
from collections.abc import Callable


class Throttle:
    """Lets a burst of lines through, then one every `interval_s`, and counts what it held back."""

    def __init__(self, burst: int = 10, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: `clock` gives seconds."""
        self._burst = burst
        self._interval_s = interval_s
        self._clock = clock
        self._free_at = clock() - burst * interval_s
        self._held_back = 0

    def admit(self) -> int | None:
        """None: hold this line back. Else how many were held back since the last one that was not."""
        now = self._clock()
        self._free_at = max(self._free_at, now - self._burst * self._interval_s)
        if self._free_at + self._interval_s > now:
            self._held_back += 1
            return None
        self._free_at += self._interval_s
        held_back, self._held_back = self._held_back, 0
        return held_back


def left_out(held_back: int) -> str:
    """The end of a log line that tells of those that were held back before it; empty where there were none."""
    return f" ({held_back} more like this were left out)" if held_back else ""
