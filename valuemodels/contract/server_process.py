"""What a server and the workers far below it have with one another beside vLLM: last words, in both directions.

An engine tells its parent no more than that it failed, and what the operator can do stands far above in its log: so a
worker that cannot start leaves its sentence in a file. And an engine whose server was killed waits on, with all its
memory, for requests that can never come: so its workers end when the server has.

Both are told by the environment, which every process below the server inherits: what stands in vLLM's configuration is
part of the key of its compiled kernels. No torch, no vLLM.
"""

import logging
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valuemodels.contract.errors import MavisError

COMPLAINT_FILE, SERVER_PID = "_MAVIS_COMPLAINT_FILE", "_MAVIS_SERVER_PID"
"""The variables; no settings, so their names do not begin like one."""

logger = logging.getLogger("mavis.start")


def known_below(complaint_file: Path) -> None:
    """Tell the processes that this one will start where to complain, and with whom to end."""
    os.environ[COMPLAINT_FILE] = str(complaint_file)
    os.environ[SERVER_PID] = str(os.getpid())


@contextmanager
def complaining() -> Iterator[None]:
    """Write down which of our errors ends what is done in here, and let it go on.

    Nowhere without the variable, nor where its file cannot be written, as on another machine: the log has the sentence.
    """
    try:
        yield
    except MavisError as error:
        try:
            if COMPLAINT_FILE in os.environ:
                Path(os.environ[COMPLAINT_FILE]).write_text(str(error))
        except OSError as unwritten:
            logger.warning("why it did not start stands here alone: %s", unwritten)
        raise


def complaint_in(file: Path) -> str | None:
    """What a worker wrote down; None where none has complained."""
    try:
        return file.read_text() or None
    except FileNotFoundError:
        return None


def end_with_server() -> None:
    """Have this process killed once the server has died, at once where it has already; its engine then ends by itself.

    Nothing without the variable, as in an engine of a script, and on a machine of a cluster that the server is not on.
    """
    if SERVER_PID not in os.environ or not hasattr(os, "pidfd_open"):
        return
    try:
        server = os.pidfd_open(int(os.environ[SERVER_PID]))
    except ProcessLookupError:  # while this process started
        os.kill(os.getpid(), signal.SIGKILL)
        return
    threading.Thread(target=_end_with, args=(server,), name="mavis server", daemon=True).start()


def _end_with(server: int) -> None:
    gone = select.poll()
    gone.register(server, select.POLLIN)
    gone.poll()
    os.kill(os.getpid(), signal.SIGKILL)
