"""What the operator reads when the server is ready."""

import json
import shlex

import pytest

from server.start.banner import Address, ready_text
from tests.server.kit import catalogue


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (Address("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        (Address("0.0.0.0", 8123), "http://127.0.0.1:8123"),
        (Address("", 1), "http://127.0.0.1:1"),
        (Address("::", 1), "http://[::1]:1"),
        (Address("::1", 1), "http://[::1]:1"),
        (Address("box.lan", 443, is_tls=True), "https://box.lan:443"),
    ],
)
def test_the_address_can_be_reached(address: Address, url: str) -> None:
    assert address.url == url


def curl_of(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("  curl ")]
    return shlex.split(line)


def test_objectives_stand_there_with_bounds_and_the_curl_line_can_be_pasted() -> None:
    text = ready_text(Address("127.0.0.1", 8000), "it's", catalogue(), chats=True, needs_key=False)
    assert "positivity  how much positivity (weights -2 to 2)" in text
    assert "simplicity  how much simplicity (weights -1 to 1)" in text
    words = curl_of(text)
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:8000/v1/chat/completions"]
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == "it's"
    assert body["objective_weights"] == {"positivity": 1.0}
    assert body["messages"]


def test_without_a_chat_template_it_is_a_completion() -> None:
    words = curl_of(ready_text(Address("h", 1), "m", catalogue(), chats=False, needs_key=False))
    assert words[2].endswith("/v1/completions")
    assert "prompt" in json.loads(words[words.index("-d") + 1])


def test_a_socket_and_a_key_are_in_the_line() -> None:
    text = ready_text(Address("", 1, uds="/run/m.sock"), "m", catalogue(), chats=True, needs_key=True)
    words = curl_of(text)
    assert words[words.index("--unix-socket") + 1] == "/run/m.sock"
    assert "Authorization: Bearer $VLLM_API_KEY" in words
