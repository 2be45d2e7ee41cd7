"""The decoder of server-sent events: the same events however the bytes were cut."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mavis_client._sse import ServerSentEvent, SSEDecoder
from tests.client.kit import CHAT_STREAM


def decode(*chunks: bytes) -> list[ServerSentEvent]:
    decoder = SSEDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def data_of(*chunks: bytes) -> list[bytes]:
    return [event.data for event in decode(*chunks)]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_of_the_standard_ends_lines(line_end: bytes) -> None:
    assert data_of(line_end.join([b"data: a", b"data: b", b"", b"data: c", b"", b""])) == [b"a\nb", b"c"]


def test_line_ends_of_unicode_are_text() -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0c".encode()
    assert data_of(b"data: " + text + b"\n\n") == [text]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_every_split_into_two_gives_the_same_events(line_end: bytes) -> None:
    stream = b"\xef\xbb\xbf" + (b"data: a\ndata: b\n\n" + CHAT_STREAM).replace(b"\n", line_end)
    whole = decode(stream)
    assert (whole[0].data, whole[-1].data) == (b"a\nb", b"[DONE]")
    for cut in range(len(stream) + 1):
        assert decode(stream[:cut], stream[cut:]) == whole, f"cut at {cut}"
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == whole


LINES = st.sampled_from(
    [b"", b"", b"data: \xe2\x98\x94", b"data:x", b"data", b": ping", b"event: error", b"id: 1", b"\xef\xbb\xbf"]
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=20),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_random_chunks_give_what_the_whole_gives(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(line + end for line, end in lines)
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    chunks = [stream[a:b] for a, b in pairwise(edges)]
    assert decode(*chunks, b"") == decode(stream)


def test_comments_and_unknown_fields_are_no_events() -> None:
    assert decode(b": keep-alive\n\n:\n\nid: 7\nretry: 1000\n\n") == []


def test_an_event_keeps_its_name_and_the_next_one_has_none() -> None:
    assert decode(b"event: error\ndata: a\n\ndata: b\n\n") == [ServerSentEvent(b"a", b"error"), ServerSentEvent(b"b")]


def test_a_name_without_data_is_dropped_with_its_event() -> None:
    assert decode(b"event: error\n\ndata: b\n\n") == [ServerSentEvent(b"b")]


def test_one_space_after_the_colon_is_not_part_of_the_value() -> None:
    assert data_of(b"data:  two\n\ndata:none\n\ndata\n\n") == [b" two", b"none", b""]


def test_a_byte_order_mark_counts_only_at_the_very_start() -> None:
    assert data_of(b"\xef\xbb", b"\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n") == [b"a", b"c"]


def test_an_event_that_was_cut_off_is_not_handed_out() -> None:
    assert data_of(b"data: a\n\ndata: b\n") == [b"a"]


def test_a_carriage_return_ends_its_line_without_waiting_for_the_next_byte() -> None:
    assert data_of(b"data: a\r\n\r") == [b"a"]
