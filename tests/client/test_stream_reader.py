"""A streamed answer from its bytes: chunks, the joined reply, and every way in which it can go wrong."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mavis_client import APIConnectionError, ChatCompletion, ChatCompletionChunk, MavisError, ProtocolError, StreamError
from mavis_client._stream import chat_reader, completion_reader
from mavis_client._stream_reader import StreamReader
from tests.client.kit import (
    CHAT_CHUNKS,
    CHAT_REPLY,
    CHAT_STREAM,
    COMPLETION_STREAM,
    DONE,
    chat_chunk,
    event,
)

ChatReader = StreamReader[ChatCompletionChunk, ChatCompletion]


def read(*pieces: bytes) -> tuple[ChatReader, list[ChatCompletionChunk]]:
    """A reader that was given these pieces and the end, and the chunks it gave before it was done or raised."""
    reader, chunks = chat_reader(), []
    reader.begin("text/event-stream")
    for piece in pieces:
        reader.feed(piece)
        while (chunk := reader.next_chunk()) is not None:
            chunks.append(chunk)
    if not reader.done:
        reader.end()
    return reader, chunks


def test_the_chunks_join_into_the_reply_of_the_same_request_without_streaming() -> None:
    reader, chunks = read(CHAT_STREAM)
    assert len(chunks) == len(CHAT_CHUNKS)
    assert reader.reply() == ChatCompletion.model_validate(CHAT_REPLY)
    assert reader.text == reader.reply().text == "Rain ☔\u2028sings é."


def test_every_split_position_gives_the_same_chunks() -> None:
    _, whole = read(CHAT_STREAM)
    for cut in range(len(CHAT_STREAM) + 1):
        reader, chunks = read(CHAT_STREAM[:cut], CHAT_STREAM[cut:])
        assert chunks == whole, f"cut at {cut}"
        assert reader.done


@settings(deadline=None)
@given(st.lists(st.integers(0, len(CHAT_STREAM)), max_size=30))
def test_random_chunking_gives_the_same_reply(cuts: list[int]) -> None:
    edges = sorted({0, len(CHAT_STREAM), *cuts})
    reader, _ = read(*(CHAT_STREAM[a:b] for a, b in pairwise(edges)))
    assert reader.reply() == ChatCompletion.model_validate(CHAT_REPLY)


def test_a_stream_cut_anywhere_before_its_done_is_an_error_and_never_a_short_answer() -> None:
    for cut in range(len(CHAT_STREAM)):
        reader, _ = read(CHAT_STREAM[:cut])
        assert not reader.done
        for ask in (reader.next_chunk, reader.reply, reader.next_chunk):
            with pytest.raises(APIConnectionError, match="before its"):
                ask()


def test_values_of_a_chunk_are_the_sum_over_its_tokens() -> None:
    _, chunks = read(CHAT_STREAM)
    assert [chunk.values for chunk in chunks] == [{}, {"positivity": 0.75}, {}, {"positivity": -0.25}, {}]
    assert [trace.token_id for chunk in chunks for trace in chunk.tokens] == [3, 4, 5]


def test_a_token_without_values_counts_for_nothing() -> None:
    untilted = {"token_id": 1, "kl": 0.0, "values": None, "levels": None}
    chunk = ChatCompletionChunk.model_validate(chat_chunk([{"index": 0, "mavis": {"tokens": [untilted]}}]))
    assert chunk.values == {}
    assert chunk.tokens[0].values is None


def test_choices_are_joined_apart_and_stand_in_order() -> None:
    reader = completion_reader()
    reader.feed(COMPLETION_STREAM)
    while reader.next_chunk() is not None:
        pass
    first, second = reader.reply().choices
    assert (first.text, first.finish_reason) == ("one!", "stop")
    assert (second.text, second.finish_reason) == ("two", "length")
    assert first.logprobs is not None
    assert first.logprobs.model_dump(exclude_unset=True) == {
        "tokens": ["one", "!"],
        "token_logprobs": [-1.0, None],
        "text_offset": [0, 3],
    }
    assert reader.text == "one!"


def test_tool_calls_are_joined_from_their_pieces() -> None:
    def piece(call: dict[str, Any]) -> bytes:
        return event(chat_chunk([{"index": 0, "delta": {"tool_calls": [call]}}]))

    reader, _ = read(
        piece({"index": 0, "id": "a", "type": "function", "function": {"name": "rain", "arguments": ""}}),
        piece({"index": 1, "id": "b", "type": "function", "function": {"name": "sun", "arguments": "{}"}}),
        piece({"index": 0, "function": {"arguments": '{"mm":'}}),
        piece({"index": 0, "function": {"arguments": " 3}"}}),
        DONE,
    )
    calls = reader.reply().choices[0].message.tool_calls or []
    assert [(call.id, call.function and call.function.name) for call in calls] == [("a", "rain"), ("b", "sun")]
    assert calls[0].function is not None
    assert json.loads(calls[0].function.arguments or "") == {"mm": 3}
    assert reader.reply().text == ""


def test_chat_logprobs_and_unknown_fields_come_through() -> None:
    def chunk(letter: str) -> bytes:
        logprobs = {"content": [{"token": letter, "logprob": -1.0}]}
        choice = {
            "index": 0,
            "delta": {"content": letter},
            "logprobs": logprobs,
            "token_ids": [ord(letter)],
            "new": letter,
        }
        return event(chat_chunk([choice], other=letter))

    reader, _ = read(chunk("a"), chunk("b"), DONE)
    reply = reader.reply()
    choice = reply.choices[0]
    assert choice.logprobs is not None
    assert [entry.token for entry in choice.logprobs.content or []] == ["a", "b"]
    assert choice.model_extra == {"token_ids": [97, 98], "new": "b"}
    assert reply.model_extra == {"other": "b"}


@pytest.mark.parametrize(
    ("error_event", "message", "kind", "code"),
    [
        (
            event({"error": {"message": "value model gave NaN", "type": "E", "param": None, "code": 500}}),
            "value model gave NaN",
            "E",
            500,
        ),
        (event({"error": "Unauthorized"}), "Unauthorized", None, None),
        (b"event: error\n" + event({"why": 1}), "{'why': 1}", None, None),
        (event({"error": {"code": "x", "type": 3}}), "no message", None, None),
    ],
)
def test_an_error_event_raises_after_the_chunks_before_it(
    error_event: bytes, message: str, kind: str | None, code: int | None
) -> None:
    reader = chat_reader()
    reader.feed(event(CHAT_CHUNKS[1]) + error_event + event(CHAT_CHUNKS[2]) + DONE)
    chunk = reader.next_chunk()
    assert chunk is not None
    assert chunk.text == "Rain ☔"
    for ask in (reader.next_chunk, reader.next_chunk, reader.reply):
        with pytest.raises(StreamError) as caught:
            ask()
        assert (str(caught.value), caught.value.type, caught.value.code) == (message, kind, code)
        assert caught.value.param is None
    assert reader.text == "Rain ☔"


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {\n\n",
        b"data: \xff\xfe\n\n",
        b"data: 3\n\n",
        b"data: {}\n\n",
        b"data\n\n",
        event({"id": "x", "choices": None}),
    ],
)
def test_an_event_that_is_no_chunk_is_a_protocol_error(bad: bytes) -> None:
    reader = chat_reader()
    reader.feed(bad)
    with pytest.raises(ProtocolError, match=r"^stream: "):
        reader.next_chunk()


@pytest.mark.parametrize("content_type", [None, "", "text/html", "application/json"])
def test_an_answer_that_is_no_event_stream_is_a_protocol_error(content_type: str | None) -> None:
    reader = chat_reader()
    reader.begin(content_type)
    with pytest.raises(ProtocolError, match="text/event-stream"):
        reader.next_chunk()


def test_what_comes_after_done_is_not_read() -> None:
    reader, chunks = read(CHAT_STREAM + event({"error": "late"}))
    assert len(chunks) == len(CHAT_CHUNKS)
    assert reader.next_chunk() is None
    assert reader.reply().text


def test_the_reply_is_refused_before_the_end() -> None:
    reader = chat_reader()
    reader.feed(event(CHAT_CHUNKS[1]))
    assert reader.next_chunk() is not None
    with pytest.raises(RuntimeError, match="not been read to its end"):
        reader.reply()


def test_the_first_failure_is_the_one_that_is_told() -> None:
    reader = chat_reader()
    reader.fail(MavisError("first"))
    reader.end()
    with pytest.raises(MavisError, match="first"):
        reader.next_chunk()
