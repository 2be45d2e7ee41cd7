"""A `mavis serve` below this process: started, waited for, asked whether it works, and stopped without losing a token.

Runs in a process of the cluster's. No torch, no vLLM.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import httpx

from server.start.stopping import end_with_parent

START_S = 1800.0
"""How long it may take to be ready; a large model is fetched meanwhile."""
STALLED_S = 120.0
"""How long it may not be ready, once it was, before it counts as broken."""
FAREWELL_S = 15.0
"""What it takes to end once it has drained."""
_LOOK_S, _PATIENCE_S = 0.5, 10.0


class ChildError(RuntimeError):
    """The server below this process has ended, or stands still."""


class Child:
    """One `mavis serve`, which only this machine reaches.

    Attributes:
        url: where it answers.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], drain_s: float) -> None:
        """Start it. It gets SIGTERM when the thread ends that made this object.

        Args:
            arguments: of `mavis serve`, without host and port.
            environment: on top of this process's own.
            drain_s: how long it may go on with its requests when it is told to stop (MAVIS_DRAIN_S).
        """
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._drain_s = drain_s
        address = ("--host", "127.0.0.1", "--port", str(port))
        command = [sys.executable, "-m", "server.cli", "serve", *arguments, *address]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment, "MAVIS_DRAIN_S": f"{drain_s:g}"},
            start_new_session=True,  # a Ctrl-C at the terminal is not its stop
            preexec_fn=end_with_parent,
        )
        self._ready_at = time.monotonic()

    async def wait_until_ready(self, timeout_s: float = START_S) -> None:
        """
        Raises:
            ChildError: it has ended, or is not ready in time; it is gone then.
        """
        deadline = time.monotonic() + timeout_s
        while not await self._is_ready():
            self._require_alive()
            if time.monotonic() > deadline:
                await self.stop(at_once=True)
                raise ChildError(f"mavis serve was not ready after {timeout_s:g} s")
            await asyncio.sleep(_LOOK_S)
        self._ready_at = time.monotonic()

    async def check(self, stalled_s: float = STALLED_S) -> None:
        """
        Raises:
            ChildError: it has ended, or has not been ready for so long.
        """
        self._require_alive()
        if await self._is_ready():
            self._ready_at = time.monotonic()
        elif time.monotonic() - self._ready_at > stalled_s:
            raise ChildError(f"mavis serve has not been ready for {stalled_s:g} s")

    async def stop(self, *, at_once: bool = False) -> None:
        """Have it end: when its requests have, or at once. Returns when it is gone."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT if at_once else signal.SIGTERM)
        deadline = time.monotonic() + (0 if at_once else self._drain_s) + FAREWELL_S
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                self._process.kill()
            await asyncio.sleep(_LOOK_S / 5)
        self._end_orphans()

    def _require_alive(self) -> None:
        status = self._process.poll()
        if status is not None:
            self._end_orphans()
            raise ChildError(f"mavis serve has ended with status {status}; the reason stands in this process's log")

    def _end_orphans(self) -> None:
        """End what a server leaves that was killed: vLLM's workers would keep the memory that the next one needs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _is_ready(self) -> bool:
        try:
            async with httpx.AsyncClient(timeout=_PATIENCE_S, trust_env=False) as client:
                return (await client.get(f"{self.url}/ready")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


def free_port() -> int:
    """One of this machine's that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
