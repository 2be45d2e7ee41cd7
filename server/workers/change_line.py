"""Changes, past the engine's loop: over a local socket of the worker's, which answers while a step is under way.

Where there is no such socket, or it is lost, changes go by the mailbox, as everything else does. Their order is kept
all the same: nothing goes over the socket while a change is in the mailbox, and the worker empties its socket before it
takes what an exchange brings.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import asyncio
import json
import logging
import socket
from dataclasses import dataclass
from itertools import count

from server.workers.mailbox import Exchange, Mailbox, NextTokens, mark_as_seen, of_choices
from valuemodels.contract.change_wire import MAX_PACKET_BYTES, packets
from valuemodels.contract.changes import Change

logger = logging.getLogger("mavis.workers")


@dataclass(slots=True)
class _Sent:
    """A change without an answer; `is_mailed`: it went by the mailbox."""

    change: Change
    answered: asyncio.Future[NextTokens]
    is_mailed: bool = False


class ChangeLine:
    """The HTTP process's end. What it returns may be awaited by several, and no caller may cancel it."""

    def __init__(self, mailbox: Mailbox, address: str | None = None, patience_s: float = 0.25) -> None:
        """
        Args:
            address: of the worker's socket; None: there is none.
            patience_s: after so long without an answer an exchange makes the worker look. One that speculates looks
                once a step.
        """
        self._mailbox = mailbox
        self._address = address
        self._patience_s = patience_s
        self._socket: socket.socket | None = None
        self._sent: dict[int, _Sent] = {}
        self._numbers = count()
        self._mailed = 0

    def change(self, change: Change) -> asyncio.Future[NextTokens]:
        """Have a change taken over; changes keep their order.

        Returns:
            From which token it holds, for the choices that the worker holds already. Fails with an `EngineLostError`,
            and nobody needs to look at it.
        """
        loop = asyncio.get_running_loop()
        sent = _Sent(change, loop.create_future())
        sent.answered.add_done_callback(mark_as_seen)
        number = next(self._numbers)
        self._sent[number] = sent
        if self._mailed or not self._write(number, change):
            if not sent.is_mailed:
                self._mail(number)
        else:
            hurry = loop.call_later(self._patience_s, self._hurry, number)
            sent.answered.add_done_callback(lambda _: hurry.cancel())
        return sent.answered

    def close(self) -> None:
        """Hang up; what is unanswered goes by the mailbox."""
        self._address = None
        self._lose()

    def _write(self, number: int, change: Change) -> bool:
        packet = json.dumps([number, change.to_wire()]).encode()
        line = self._connected()
        if line is None or len(packet) > MAX_PACKET_BYTES:
            return False
        try:
            line.send(packet)
        except BlockingIOError:  # full: the worker empties it before it takes what comes by the mailbox
            return False
        except OSError as error:
            self._give_up(error)
            return False
        return True

    def _connected(self) -> socket.socket | None:
        if self._socket is None and self._address is not None:
            line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            line.setblocking(False)
            try:
                line.connect(f"\0{self._address}")
            except OSError as error:  # the worker is on another machine
                logger.info("changes go by way of the engine: %s", error)
                self._address = None
                line.close()
                return None
            self._socket = line
            asyncio.get_running_loop().add_reader(line.fileno(), self._read)
        return self._socket

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            for packet in packets(self._socket):
                number, wire = json.loads(packet)
                if (sent := self._sent.pop(number, None)) is not None:
                    sent.answered.set_result(of_choices(wire))
        except (EOFError, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """What is unanswered goes by the mailbox, in its order, before anything later does."""
        logger.warning("the line for changes is lost, they go by way of the engine: %r", error)
        self.close()

    def _lose(self) -> None:
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        for number, sent in list(self._sent.items()):
            if not sent.is_mailed:
                self._mail(number)

    def _hurry(self, number: int) -> None:
        def looked(exchange: asyncio.Future[Exchange]) -> None:
            # The worker's answer on the socket came before the exchange's.
            self._read()
            if number not in self._sent or self._sent[number].is_mailed:
                return
            if (error := exchange.exception()) is not None:
                self._sent.pop(number).answered.set_exception(error)
            else:
                self._lose()

        self._mailbox.ping().add_done_callback(looked)

    def _mail(self, number: int) -> None:
        sent = self._sent[number]
        sent.is_mailed = True
        self._mailed += 1

        def done(exchange: asyncio.Future[Exchange]) -> None:
            self._mailed -= 1
            del self._sent[number]
            if (error := exchange.exception()) is not None:
                sent.answered.set_exception(error)
            else:
                sent.answered.set_result(exchange.result().next_tokens.get(sent.change.generation_id, {}))

        self._mailbox.change(sent.change).add_done_callback(done)
