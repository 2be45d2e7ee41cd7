"""Server-sent events, decoded from the bytes as they come. No I/O.

The decoder works on bytes throughout: line ends are ASCII, so a split inside a multibyte character needs no care, and
the payload is JSON, whose parser knows its own encoding.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event: its `data:` lines joined by line feeds, and its name, b"" where it has none."""

    data: bytes
    name: bytes = b""


class SSEDecoder:
    """Incremental decoder of one stream; the events do not depend on how the bytes were cut.

    An event ends with its empty line. One that has not ended when the bytes stop was cut off, and is never handed out.
    """

    def __init__(self) -> None:
        self._unfinished_line: list[bytes] = []
        self._after_carriage_return = False
        self._at_first_line = True
        self._data: list[bytes] = []
        self._name = b""

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """Decode the next bytes. Exhaust the iterator before feeding more."""
        for line in self._lines(chunk):
            if line:
                self._take_field(line)
            elif self._data:
                yield ServerSentEvent(b"\n".join(self._data), self._name)
                self._data, self._name = [], b""
            else:
                self._name = b""

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that end in this chunk, without their ends."""
        if not chunk:
            return
        if self._after_carriage_return:  # the line has ended there already; this may be the rest of its CRLF
            chunk = chunk.removeprefix(b"\n")
        self._after_carriage_return = chunk.endswith(b"\r")
        *ended, rest = _LINE_END.split(chunk)
        for piece in ended:
            line = b"".join([*self._unfinished_line, piece])
            self._unfinished_line = []
            yield line.removeprefix(_BYTE_ORDER_MARK) if self._at_first_line else line
            self._at_first_line = False
        self._unfinished_line.append(rest)

    def _take_field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value
        # An empty field is a comment, sent to keep the connection alive. `id` and `retry` serve reconnection, which a
        # generation does not have.
