"""uvicorn's HTTP protocol with a bound on what stands before a body: its parser itself would read for ever.

Runs in the HTTP process. No torch, no vLLM.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SLACK_BYTES = 65_536
"""The gate answers what is a little too large in words; this ends the connection of what is not."""


def bounded_http(max_header_bytes: int) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn's `http` option."""

    class BoundedHttp(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._head_bytes = 0
            self._is_in_head = True

        def data_received(self, data: bytes) -> None:
            """Feed the parser, and give up where a head does not end."""
            self._head_bytes += len(data)
            super().data_received(data)
            if (
                self._is_in_head
                and self._head_bytes > max_header_bytes + SLACK_BYTES
                and not self.transport.is_closing()
            ):
                self.send_400_response("The request's headers are too large.")

        def on_message_begin(self) -> None:
            self._head_bytes, self._is_in_head = 0, True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._is_in_head = False
            super().on_headers_complete()

    return BoundedHttp
