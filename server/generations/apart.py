"""Work on the tokens of an answer, at once or apart from the event loop. Runs in the HTTP process."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SOON_DONE = 256
"""Tokens that are worked on in less time than a thread takes to be given a processor where all are busy."""


async def worked_out(weight: int, work: Callable[[], T]) -> T:
    """The result of some work; much of it is done in a thread, so that other clients' tokens pass meanwhile.

    Args:
        weight: how much there is to work on, in tokens; see `Generation.weight`.
    """
    return work() if weight <= SOON_DONE else await asyncio.to_thread(work)
