"""Much work leaves the event loop to others; little is done at once."""

import threading

from server.generations.apart import SOON_DONE, worked_out


async def test_little_work_is_done_at_once_and_much_in_a_thread() -> None:
    here = threading.get_ident()
    assert await worked_out(SOON_DONE, threading.get_ident) == here
    assert await worked_out(SOON_DONE + 1, threading.get_ident) != here
