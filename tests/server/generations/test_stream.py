"""Server-sent events byte for byte: what passes untouched, what gets a block, and what is closed at the end."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import pytest

from server.generations.choice import Choice
from server.generations.generation import Generation
from server.generations.mavis_block import MavisBlock
from server.generations.registry import Registry
from server.generations.stream import EventSplitter, FinishedChoice, GuidedStream, decode, encode
from server.generations.trace_reader import TraceReader
from server.workers.mailbox import Mailbox
from tests.server.kit import OWNER, FakeEngine, checked, generation
from valuemodels.contract.guidance import ChoiceName

BLOCK = MavisBlock(("positivity", "simplicity"), "test-1")
USAGE = 'data: {"id":"x","choices":[],"usage":{"total_tokens": 3}}\n\n'
ERROR = 'data: {"error": {"message": "boom", "code": 500}}\n\n'
KEEP_ALIVE = ": keep-alive\n\n"
DONE = "data: [DONE]\n\n"
Finished = tuple[Choice, Mapping[str, Any]]


def chunk(index: int = 0, text: str = "t", finish: str | None = None) -> str:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return encode({"id": "chatcmpl-a", "choices": [choice]})


class Source:
    """A stream of vLLM's: before each piece the engine returns a token to the choice named."""

    def __init__(
        self, engine: FakeEngine, generation: Generation, pieces: Sequence[tuple[int | None, str]], pause_s: float = 0
    ) -> None:
        self.engine, self.generation, self.pieces, self.pause_s = engine, generation, pieces, pause_s
        self.is_closed = False

    async def events(self) -> AsyncGenerator[str, None]:
        try:
            for index, piece in self.pieces:
                await asyncio.sleep(self.pause_s)
                if index is not None:
                    self.generation.count(ChoiceName(0, index), [self.generation.choice(index).returned])
                    self.engine.known[self.generation.id] = 8
                yield piece
        finally:
            self.is_closed = True


def guided(source: Source, on_finish: FinishedChoice = lambda choice, block: None) -> GuidedStream:
    registry = Registry()
    registry.open(source.generation)
    reader = TraceReader(Mailbox(source.engine, interval_s=0.001, liveness_s=0.02), registry)
    return GuidedStream(source.generation, reader, on_finish)


async def rewritten(source: Source, finished: list[Finished] | None = None) -> list[str]:
    seen = finished if finished is not None else []
    stream = guided(source, lambda choice, block: seen.append((choice, block)))
    return [_without_token(text) async for text in stream.rewrite(source.events())]


def _without_token(event: str) -> str:
    """The first chunk's token is told once; what these tests compare is the rest."""
    return event.replace(f',"generation_token":"{OWNER.token}"', "")


def test_events_are_cut_at_empty_lines_wherever_the_text_was_cut() -> None:
    text = chunk(text="ä\u2028🙂") + KEEP_ALIVE + "data: 1\r\n\r\n" + DONE
    for size in (1, 2, 7, len(text)):
        splitter = EventSplitter()
        events = [e for at in range(0, len(text), size) for e in splitter.feed(text[at : at + size])]
        assert "".join(events) == text
        assert len(events) == 4
        assert splitter.rest == ""


def test_what_is_decoded_and_encoded_is_what_vllm_wrote() -> None:
    event = 'data: {"id":"a","choices":[{"index":0,"delta":{"content":"ä \\n\\u0001 \\"🙂"},"x":1.5e-07}],"n":null}\n\n'
    payload = decode(event)
    assert payload is not None
    assert decode(encode(payload)) == payload
    assert encode(payload).isascii() is False
    assert encode(payload).count("\n") == 2


@pytest.mark.parametrize("end", [*"\v\f\x1c\x1d\x1e\x85\u2028\u2029"])
async def test_what_only_python_takes_for_a_line_end_costs_no_block(end: str) -> None:
    """A chunk whose text held one lost its `mavis` block, and a first one its token."""
    text = f"a{end}b"
    event = f'data: {{"id":"x","choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":"stop"}}]}}\n\n'
    if end.isprintable() or end in "\x85\u2028\u2029":
        assert (decode(event) or {})["choices"][0]["delta"]["content"] == text
    source = Source(FakeEngine(), generation(), [(0, chunk(text=text, finish="stop")), (None, DONE)])
    first, done = [written async for written in guided(source).rewrite(source.events())]
    payload = decode(first)
    assert payload is not None and payload["generation_token"] == OWNER.token
    assert payload["choices"][0]["mavis"]["kl"] == 0.0 and done == DONE


@pytest.mark.parametrize("event", [DONE, KEEP_ALIVE, "data: [1]\n\n", "data: {\n\n", "event: x\n\n", "\n\n"])
def test_what_is_no_object_is_not_decoded(event: str) -> None:
    assert decode(event) is None


async def test_totals_come_with_the_last_chunk_and_all_else_passes_byte_for_byte() -> None:
    engine = FakeEngine()
    pieces = [(None, chunk(text="")), (0, chunk()), (None, KEEP_ALIVE), (0, chunk(finish="stop")), (None, USAGE)]
    finished: list[Finished] = []
    out = await rewritten(Source(engine, generation(), [*pieces, (None, DONE)]), finished)
    assert out[:3] == [chunk(text=""), chunk(), KEEP_ALIVE]
    assert out[4:] == [USAGE, DONE]
    block = json.loads(out[3].removeprefix("data: "))["choices"][0].pop("mavis")
    assert block["kl"] == 1 / 8
    assert "tokens" not in block
    assert [(choice.returned, told) for choice, told in finished] == [(2, block)]
    assert engine.dropped == ["chatcmpl-a"]


async def test_tokens_come_with_the_chunks_or_with_the_last_and_none_twice() -> None:
    engine = FakeEngine()
    live = generation({"objective_weights": {"positivity": 1}, "return_values": True})
    pieces = [*[(0, chunk()) for _ in range(6)], (0, chunk(finish="length")), (None, DONE)]
    out = await rewritten(Source(engine, live, pieces, pause_s=0.01))
    blocks = [json.loads(e.removeprefix("data: "))["choices"][0].get("mavis") for e in out[:-1]]
    told = [[token["token_id"] for token in block["tokens"]] for block in blocks if block]
    assert [token for tokens in told for token in tokens] == list(range(7))
    assert len(told) > 2, "nothing arrived before the end"
    for at, block in enumerate(blocks):
        seen = sum(len(b["tokens"]) for b in blocks[: at + 1] if b)
        assert seen <= at + 1, "a value came before its token"
        assert block is None or ("kl" in block) == (at == 6)


async def test_choices_have_their_own_totals_and_the_last_to_finish_drops_the_trace() -> None:
    engine = FakeEngine()
    pieces = [(0, chunk(0)), (1, chunk(1)), (1, chunk(1, finish="stop")), (0, chunk(0)), (0, chunk(0, finish="stop"))]
    out = await rewritten(Source(engine, generation(n=2), pieces))
    second = json.loads(out[2].removeprefix("data: "))["choices"][0]["mavis"]
    first = json.loads(out[4].removeprefix("data: "))["choices"][0]["mavis"]
    assert second["kl"] == 1 / 8
    assert first["kl"] == 3 / 8
    assert [drops for _, _, drops in engine.exchanges] == [[], ["chatcmpl-a"]]


async def test_pieces_cut_anywhere_give_the_same_events() -> None:
    text = chunk() + chunk(finish="stop") + DONE
    whole = await rewritten(Source(FakeEngine(), generation(), [(0, text)]))
    for size in (1, 5, 50):
        cut = [(0 if at == 0 else None, text[at : at + size]) for at in range(0, len(text), size)]
        assert "".join(await rewritten(Source(FakeEngine(), generation(), cut))) == "".join(whole)


async def test_an_error_event_passes_and_what_has_no_end_is_kept() -> None:
    out = await rewritten(Source(FakeEngine(), generation(), [(0, chunk()), (None, ERROR), (None, "data: cut")]))
    assert out == [chunk(), ERROR, "data: cut"]


async def test_lost_values_end_the_stream_in_an_error_event() -> None:
    engine = FakeEngine()
    engine.failure = RuntimeError("gone")
    source = Source(engine, generation(), [(0, chunk()), (0, chunk(finish="stop")), (None, USAGE), (None, DONE)])
    out = await rewritten(source)
    assert out[0] == chunk()
    assert json.loads(out[1].removeprefix("data: "))["error"]["code"] == 500
    assert out[2:] == [DONE]
    assert source.is_closed


async def test_closing_the_stream_closes_vllms() -> None:
    """vLLM aborts a request when its generator is closed; left to the garbage collector it would run on."""
    engine = FakeEngine()
    source = Source(engine, generation(), [(0, chunk())] * 50)
    stream = guided(source)
    events = stream.rewrite(source.events())
    await anext(events)
    await events.aclose()
    assert source.is_closed


async def test_the_token_stands_in_the_first_chunk_alone() -> None:
    engine = FakeEngine()
    source = Source(engine, generation(), [(None, KEEP_ALIVE), (None, chunk(text="")), (0, chunk()), (None, DONE)])
    stream = guided(source)
    out = [text async for text in stream.rewrite(source.events())]
    assert json.loads(out[1].removeprefix("data: "))["generation_token"] == OWNER.token
    assert [out[0], *out[2:]] == [KEEP_ALIVE, chunk(), DONE]


async def test_a_plain_stream_passes_untouched_until_it_is_steered() -> None:
    engine = FakeEngine()
    plain = Generation(checked({"objective_weights": {"positivity": 0}}), 1, OWNER)
    odd = chunk().replace("{", "{ ", 1)  # not as we would encode it
    source = Source(engine, plain, [(0, chunk()), (0, odd), (0, odd), (0, chunk(finish="stop")), (None, DONE)])
    stream = guided(source)
    events = stream.rewrite(source.events())
    assert "generation_token" in await anext(events)
    assert await anext(events) == odd
    plain.watch()
    rest = [text async for text in events]
    assert rest[0] == odd
    assert json.loads(rest[1].removeprefix("data: "))["choices"][0]["mavis"]["kl"] == 6 / 8
    assert engine.dropped == [plain.id]


async def test_settings_are_told_once_and_with_their_tokens() -> None:
    engine = FakeEngine()
    one = generation({"objective_weights": {"positivity": 1}, "return_values": True})
    start, later = (0, (1.0, 0.0), 1.0, None), (3, (-1.0, 0.0), 1.0, None)
    engine.settings[one.id] = {ChoiceName(0, 0): [start, later]}
    pieces = [*[(0, chunk()) for _ in range(6)], (0, chunk(finish="length")), (None, DONE)]
    out = await rewritten(Source(engine, one, pieces, pause_s=0.01))
    blocks = [json.loads(e.removeprefix("data: "))["choices"][0].get("mavis", {}) for e in out[:-1]]
    told = [entry for block in blocks for entry in block.get("steering", [])]
    assert [(entry["from_token"], entry["objective_weights"]["positivity"]) for entry in told] == [(0, 1.0), (3, -1.0)]
    sent = 0
    for block in blocks:
        sent += len(block.get("tokens", []))
        assert all(entry["from_token"] < sent for entry in block.get("steering", [])), "told before its tokens"
    assert blocks[-1]["objective_weights"]["positivity"] == -1.0
