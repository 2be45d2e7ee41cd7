"""What `mavis serve` hands to the routes beside vLLM's own arguments. No torch, no vLLM."""

from collections.abc import Callable
from dataclasses import dataclass

from server.gate.drain import Drain
from server.requests.keys import ApiKeys
from server.start.settings import Settings

SERVER_OPTIONS = "mavis_options"
"""The attribute of vLLM's parsed arguments under which they travel."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the operator has set, read and checked.

    Attributes:
        on_drain: told, once the routes stand, what to drain before a stop, and for how many seconds at most.
    """

    settings: Settings
    keys: ApiKeys
    on_drain: Callable[[Drain, float], None]
