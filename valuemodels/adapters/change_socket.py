"""Changes that reach the worker within the step under way: a local socket, looked at once a step.

`collective_rpc` stops the engine's loop while the worker answers, and waits for a step to end before that. A change of
weights needs neither: the worker can look for it itself, before it tilts. `server/workers/change_line.py` is the other
end.

The socket has no file: its name is in Linux's abstract namespace, random, and told in `mavis_attach`'s answer. Whoever
connects must run under this process's user.

Runs in the worker, on its one thread. Standard library and the contract only; no vLLM.
"""

import json
import logging
import os
import secrets
import selectors
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

from valuemodels.contract.change_wire import packets
from valuemodels.contract.changes import Change

logger = logging.getLogger("vllm.mavis")

_PEER = struct.Struct("3i")  # process, user, group

Taken = Callable[[Change], Mapping[str, Any]]


class ChangeSocket:
    """Listens for as long as the worker lives."""

    def __init__(self) -> None:
        """
        Raises:
            OSError: the system gives no such socket.
        """
        self.address = f"mavis-{secrets.token_hex(16)}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        listener.bind(f"\0{self.address}")
        listener.listen()
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def take(self, taken: Taken) -> None:
        """Hand on the changes that have come, in each connection's order, and answer them; never waits.

        Args:
            taken: takes a change over; what it returns is the answer.
        """
        for key, _ in self._selector.select(0):
            connection = self._accept() if key.fileobj is self._listener else key.fileobj
            if isinstance(connection, socket.socket):
                self._serve(connection, taken)

    def close(self) -> None:
        """Close it, and all connections."""
        for key in list(self._selector.get_map().values()):
            self._hang_up(key.fileobj)
        self._selector.close()

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

    def _serve(self, connection: socket.socket, taken: Taken) -> None:
        """The server sends again, another way, what was not answered when a connection ends."""
        try:
            for packet in packets(connection):
                number, change = json.loads(packet)
                connection.send(json.dumps([number, taken(Change.from_wire(change))]).encode())
        except EOFError:
            self._hang_up(connection)
        except Exception:  # whatever it is, the texts of this worker must not suffer
            logger.exception("a connection for changes is given up")
            self._hang_up(connection)

    def _hang_up(self, connection: Any) -> None:
        self._selector.unregister(connection)
        connection.close()


def change_socket() -> ChangeSocket | None:
    """One, where the system has what it takes: Linux, and the right to open it."""
    if sys.platform != "linux":
        return None
    try:
        return ChangeSocket()
    except OSError as error:
        logger.warning("changes come by way of the engine: %s", error)
        return None
