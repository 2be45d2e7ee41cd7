"""Server-sent events: the one place where a stream of vLLM's gets its `mavis` blocks and its generation's token.

vLLM's serving class yields events that are already encoded. Each is decoded, its choices get what there is to say
about them, and it is encoded again; events we have nothing to add to (usage, errors, `[DONE]`, keep-alive comments)
pass byte for byte.

Runs in the HTTP process. No torch, no vLLM.
"""

import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any

from server.errors import RequestError, envelope
from server.generations.choice import Choice
from server.generations.generation import Generation
from server.generations.phase import Phase
from server.generations.trace_reader import TraceReader

_EVENT_END = re.compile(r"\r?\n\r?\n")
_LINE_END = re.compile(r"\r\n|\n|\r")
_DONE = "data: [DONE]\n\n"

FinishedChoice = Callable[[Choice, Mapping[str, Any]], None]


class EventSplitter:
    """Cuts text into events, wherever the pieces it comes in were cut."""

    def __init__(self) -> None:
        self.rest = ""

    def feed(self, text: str) -> Iterator[str]:
        """Events that are complete now, each with the empty line that ends it."""
        self.rest += text
        while end := _EVENT_END.search(self.rest):
            event, self.rest = self.rest[: end.end()], self.rest[end.end() :]
            yield event


def decode(event: str) -> dict[str, Any] | None:
    """The JSON object that an event carries, None for any other event."""
    # Not str.splitlines(): text in the JSON may hold U+2028 and its like unescaped, and those end no line here.
    data = [line.removeprefix("data:") for line in _LINE_END.split(event) if line.startswith("data:")]
    try:
        payload = json.loads("\n".join(data))
    except ValueError:
        return None
    return payload if isinstance(payload, dict) else None


def encode(payload: dict[str, Any]) -> str:
    """An event as vLLM writes it: compact, not escaped beyond need, on one line."""
    return f"data: {json.dumps(payload, ensure_ascii=False, separators=(',', ':'), allow_nan=False)}\n\n"


class GuidedStream:
    """Adds the generation's token to its first event, and its `mavis` blocks to the events of their tokens."""

    def __init__(self, generation: Generation, reader: TraceReader, on_finish: FinishedChoice) -> None:
        """Args: `on_finish` is called once a choice, with its last block, which has its totals."""
        self._generation = generation
        self._reader = reader
        self._block = generation.block
        self._on_finish = on_finish
        self._has_sent_token = False

    async def rewrite(self, events: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        """The same events with our blocks. Closing this generator closes `events`, which aborts the generation.

        Where the values are lost the stream ends in an error event, since a guided answer without them would pass
        for one that is complete.
        """
        splitter = EventSplitter()
        try:
            async for text in events:
                if self._has_nothing_to_say and not splitter.rest:
                    yield text
                    continue
                for event in splitter.feed(text):
                    yield await self._annotate(event)
            if splitter.rest:
                yield splitter.rest
        except RequestError as error:
            yield encode(envelope(error)[1])
            yield _DONE
        finally:
            await events.aclose()

    @property
    def _has_nothing_to_say(self) -> bool:
        """Whether the next events are vLLM's alone: a plain generation, until it is changed."""
        return self._has_sent_token and not self._generation.is_watched

    async def _annotate(self, event: str) -> str:
        payload = decode(event)
        choices = payload.get("choices") if payload is not None else None
        if payload is None or not isinstance(choices, list):
            return event
        blocks = [await self._block_of(choice) for choice in choices]
        if not any(blocks) and self._has_sent_token:
            return event
        if not self._has_sent_token:
            payload["generation_token"] = self._generation.owner.token
            self._has_sent_token = True
        for choice, block in zip(choices, blocks, strict=True):
            if block:
                choice["mavis"] = block
        return encode(payload)

    async def _block_of(self, wire: dict[str, Any]) -> dict[str, Any]:
        """What there is to say with this chunk about its choice."""
        generation = self._generation
        if not generation.is_watched:
            return {}
        choice = generation.choice(wire["index"])
        if wire.get("finish_reason") is not None and choice.phase < Phase.TOLD:
            choice.advance(Phase.TOLD)
            await self._reader.read(generation)
            block = self._block.whole(choice, generation.resolved)
            self._on_finish(choice, block)
            return block
        return self._arrived(choice) if generation.resolved.shows_tokens else {}

    def _arrived(self, choice: Choice) -> dict[str, Any]:
        """What has come of a running choice's values since the last chunk."""
        resolved = self._generation.resolved
        if choice.unread:
            self._reader.poll(self._generation)
        tokens = self._block.tokens(choice, resolved)
        if not tokens:
            return {}
        choice.streamed += len(tokens)
        block = {"tokens": tokens} | self._block.steering(choice, resolved, choice.streamed)
        choice.streamed_settings += len(block.get("steering", ()))
        return block
