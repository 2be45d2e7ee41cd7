"""Both clients over real sockets: real chunking, breaks, silences and disconnects."""

import socket
from collections.abc import Callable

import httpx
import pytest

from mavis_client import APIConnectionError, APITimeoutError, BadRequestError, ChatCompletion
from tests.client.fake_server import FakeServer
from tests.client.kit import CHAT_REPLY, Sdk

Connect = Callable[..., Sdk]


def test_a_stream_in_single_bytes_is_the_whole_answer(connect: Connect, server: FakeServer) -> None:
    sdk = connect(base_url=server.url)
    with sdk.opened(sdk.client.chat_stream("hi")) as stream:
        assert stream.completion() == sdk.chat("hi") == ChatCompletion.model_validate(CHAT_REPLY)


@pytest.mark.parametrize("behaviour", ["cut", "stop"])
def test_a_stream_that_breaks_off_raises(connect: Connect, server: FakeServer, behaviour: str) -> None:
    sdk = connect(base_url=server.url)
    with sdk.opened(sdk.client.chat_stream(behaviour)) as stream:
        assert next(stream).text == "Rain ☔"
        with pytest.raises(APIConnectionError):
            next(stream)
    assert sdk.slept == []


def test_leaving_a_stream_early_ends_it_on_the_server(connect: Connect, server: FakeServer) -> None:
    sdk = connect(base_url=server.url)
    with sdk.opened(sdk.client.chat_stream("hang")) as stream:
        assert next(stream).text == "Rain ☔"
        assert not server.client_left.is_set()
    sdk.health()  # the async client's loop runs only while something is awaited
    assert server.client_left.wait(timeout=60)


def test_silence_ends_in_a_timeout_that_is_not_tried_again(connect: Connect, server: FakeServer) -> None:
    sdk = connect(base_url=server.url)
    with pytest.raises(APITimeoutError) as caught:
        sdk.chat("silent", timeout=httpx.Timeout(60.0, read=0.2))
    assert caught.value.request_sent
    assert sdk.slept == []
    assert server.client_left.wait(timeout=60)


def test_a_refused_field_is_named(connect: Connect, server: FakeServer) -> None:
    with pytest.raises(BadRequestError) as caught:
        connect(base_url=server.url).complete("hi", objective_weights={"humor": 1.0})
    assert caught.value.param == "objective_weights.humor"


def test_a_refused_stream_has_its_message_read_from_the_network(connect: Connect, server: FakeServer) -> None:
    sdk = connect(base_url=server.url)
    stream = sdk.client.chat_stream("hi", objective_weights={"humor": 1.0})
    with pytest.raises(BadRequestError, match=r"400: objective_weights\.humor: unknown"), sdk.opened(stream):
        pass


def test_where_nobody_listens_the_request_was_not_sent(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    sdk = connect(base_url=f"http://127.0.0.1:{port}")
    with pytest.raises(APIConnectionError) as caught:
        sdk.chat("hi")
    assert not caught.value.request_sent
    assert len(sdk.slept) == 2
    assert sdk.ready() is False
