"""What `mavis serve` hands to the routes beside vLLM's own arguments. No torch, no vLLM."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.gate.drain import Drain
from server.requests.keys import ApiKeys
from server.start.settings import Settings

SERVER_OPTIONS = "mavis_options"
"""The attribute of vLLM's parsed arguments under which they travel."""


@dataclass(frozen=True, slots=True)
class HttpProcess:
    """Which of the HTTP processes it is.

    Attributes:
        count: how many there are.
        sockets: where all of them can be asked by the others, by number; empty where there is one.
    """

    index: int = 0
    count: int = 1
    sockets: tuple[Path, ...] = ()

    @property
    def others(self) -> tuple[Path, ...]:
        """The sockets of the others."""
        return self.sockets[: self.index] + self.sockets[self.index + 1 :]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the operator has set, read and checked.

    Attributes:
        on_drain: told, once the routes stand, what to drain before a stop, and for how many seconds at most.
    """

    settings: Settings
    keys: ApiKeys
    on_drain: Callable[[Drain, float], None]
    process: HttpProcess = HttpProcess()
