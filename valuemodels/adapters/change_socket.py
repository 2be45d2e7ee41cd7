"""Changes that reach the worker within the step under way: a local socket.

`collective_rpc` stops the engine's loop while the worker answers, and waits for a step to end before that. A change of
weights needs neither: a thread takes it over and answers while the model computes, so that whoever moves a slider does
not wait for a step; and before it tilts the worker looks itself, so that what was sent by then holds for this step.
`server/workers/change_line.py` is the other end.

The socket has no file: its name is in Linux's abstract namespace, random, and told in `mavis_attach`'s answer. Whoever
connects must run under this process's user.

Runs in the worker. Standard library and the contract only; no vLLM.
"""

import contextlib
import json
import logging
import os
import secrets
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from valuemodels.contract.change_wire import packets
from valuemodels.contract.changes import Change

logger = logging.getLogger("vllm.mavis")

_PEER = struct.Struct("3i")  # process, user, group
_PAUSE_S = 0.01
"""How long the thread leaves be what it could not take: a connection for which there are too many open files."""

Taken = Callable[[Change], Mapping[str, Any]]


class ChangeSocket:
    """Listens for as long as the worker lives."""

    def __init__(self, taken: Taken, lock: AbstractContextManager[Any]) -> None:
        """
        Args:
            taken: takes a change over; what it returns is the answer.
            lock: held meanwhile; the holder may hold it already.

        Raises:
            OSError: the system gives no such socket.
        """
        self._taken = taken
        self._lock = lock
        self.address = f"mavis-{secrets.token_hex(16)}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        listener.bind(f"\0{self.address}")
        listener.listen()
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._thread: threading.Thread | None = None
        self._is_closing = False

    def listen(self) -> None:
        """Take changes as they come, in a thread, until it is closed."""
        self._thread = threading.Thread(target=self._listen, name="mavis changes", daemon=True)
        self._thread.start()

    def take(self) -> bool:
        """Take over the changes that have come, in each connection's order, and answer them; never waits for any.

        Returns:
            whether there was something to read.
        """
        with self._lock:
            read = False
            for key, _ in self._selector.select(0):
                connection = self._accept() if key.fileobj is self._listener else key.fileobj
                if isinstance(connection, socket.socket):
                    self._serve(connection)
                    read = True
            return read

    def close(self) -> None:
        """Close it, and all connections."""
        self._is_closing = True
        if self._thread is not None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as waker:
                waker.connect(f"\0{self.address}")
            self._thread.join()
        for key in list(self._selector.get_map().values()):
            self._hang_up(key.fileobj)
        self._selector.close()

    def _listen(self) -> None:
        # vLLM binds a worker on a CPU to the cores that it computes on; here, what started the worker has the others.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(threading.get_native_id(), os.sched_getaffinity(os.getppid()))
        while not self._is_closing:
            self._selector.select()
            if not self._is_closing and not self.take():
                time.sleep(_PAUSE_S)

    def _accept(self) -> socket.socket | None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # it has hung up already, or there are too many files
            logger.warning("a connection for changes could not be accepted: %s", error)
            return None
        _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if user != os.getuid():
            logger.warning("user %d may not send changes to this worker", user)
            connection.close()
            return None
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        return connection

    def _serve(self, connection: socket.socket) -> None:
        """The server sends again, another way, what was not answered when a connection ends."""
        try:
            for packet in packets(connection):
                number, change = json.loads(packet)
                connection.send(json.dumps([number, self._taken(Change.from_wire(change))]).encode())
        except EOFError:
            self._hang_up(connection)
        except Exception:  # whatever it is, the texts of this worker must not suffer
            logger.exception("a connection for changes is given up")
            self._hang_up(connection)

    def _hang_up(self, connection: Any) -> None:
        self._selector.unregister(connection)
        connection.close()


def change_socket(taken: Taken, lock: AbstractContextManager[Any]) -> ChangeSocket | None:
    """One, where the system has what it takes: Linux, and the right to open it."""
    if sys.platform != "linux":
        return None
    try:
        return ChangeSocket(taken, lock)
    except OSError as error:
        logger.warning("changes come by way of the engine: %s", error)
        return None
