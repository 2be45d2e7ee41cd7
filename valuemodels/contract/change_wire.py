"""How a change goes to a worker over a local socket, and its answer comes back: one JSON text a packet.

`[number, change]` goes, `[number, next tokens]` comes back: choice -> index of the first token that the change holds
for, of the choices that the worker holds. Standard library only.
"""

import socket
from collections.abc import Iterator

MAX_PACKET_BYTES = 65_536
"""What is larger has to go another way."""


def packets(connection: socket.socket) -> Iterator[bytes]:
    """What has come on a connection that does not block.

    Raises:
        EOFError: after the last packet, where the other end has closed it.
        OSError: the connection is broken.
    """
    while True:
        try:
            packet = connection.recv(MAX_PACKET_BYTES)
        except BlockingIOError:
            return
        if not packet:
            raise EOFError
        yield packet
