"""The terminal's chat around a server of these tests: what is asked, steered, shown and refused."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from mavis_chat import app as chat_app
from mavis_chat import writing
from mavis_chat.sliders import Sliders
from mavis_chat.writing import Answer, marked
from mavis_client import AsyncMavisClient, Objective
from tests.client.kit import BASE_URL, DONE, event

OBJECTIVES = [{"id": "warmth", "bounds": [-1, 1], "default": 0.0}, {"id": "brevity", "bounds": [0, 2], "default": 0.0}]
WORDS = ("The ", "rain ", "falls ", "softly.")
MAVIS = {"objective_weights": {"warmth": 0.1}, "beta": 1.0, "kl": 1.5, "values": {}, "checkpoint": "c"}


class Words(httpx.AsyncByteStream):
    """A stream that writes a word at a time, slowly enough for keys to be pressed."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for place, word in enumerate(WORDS):
            is_last = place == len(WORDS) - 1
            choice: dict[str, Any] = {
                "index": 0,
                "delta": {"content": word},
                "finish_reason": "stop" if is_last else None,
            }
            if is_last:
                choice["mavis"] = MAVIS
            fields = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            token = {"generation_token": "t" * 20} if place == 0 else {}
            yield event({**fields, "choices": [choice], **token})
            await asyncio.sleep(0.15)
        yield DONE


class Server:
    """Answers what the chat asks for; `status` of a change."""

    def __init__(self, status: int = 200) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.status = status

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.method, json.loads(request.content or b"{}")))
        if request.method == "GET":
            return httpx.Response(200, json={"object": "list", "data": OBJECTIVES})
        if request.method == "PATCH":
            error = {"error": {"message": "no, thanks", "type": "e", "param": None, "code": self.status}}
            held = {"id": "chatcmpl-1", "effective_from_token": 1, "choices": []}
            return httpx.Response(self.status, json=held if self.status == 200 else error)
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=Words())

    @property
    def changes(self) -> list[dict[str, Any]]:
        return [body for method, body in self.asked if method == "PATCH"]

    def client(self, url: str = BASE_URL, **arguments: Any) -> AsyncMavisClient:
        return AsyncMavisClient(url, transport=httpx.MockTransport(self), max_retries=0, **arguments)


@contextmanager
def pressing(*keys: str) -> Iterator[asyncio.Queue[str]]:
    """Keys that are pressed as soon as the answer has begun."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    for key in keys:
        asyncio.get_running_loop().call_later(0.1, queue.put_nowait, key)
    yield queue


def written(server: Server, *keys: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Answer, Sliders]:
    monkeypatch.setattr(writing, "pressed_keys", partial(pressing, *keys))
    sliders = Sliders([Objective.model_validate(each) for each in OBJECTIVES])

    async def write() -> Answer:
        async with server.client() as client:
            messages = [{"role": "user", "content": "rain"}]
            return await writing.write(client, Console(quiet=True), sliders, messages, max_tokens=9)

    return asyncio.run(write()), sliders


def test_keys_change_the_running_answer_and_are_marked_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    answer, sliders = written(server, "right", "right", "down", "right", monkeypatch=monkeypatch)
    assert answer.text == "".join(WORDS) and answer.cost == "1.5 nats from the base"
    assert sliders.weights == {"warmth": 0.2, "brevity": 0.1}
    said: dict[str, float] = {}
    for change in server.changes:
        said |= change["objective_weights"]
    assert said == sliders.weights
    assert marked(answer).plain == "The  ⟨warmth +0.20, brevity +0.10⟩rain falls softly."
    assert server.asked[0][1]["objective_weights"] == {"warmth": 0.0, "brevity": 0.0}


def test_escape_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, _ = written(Server(), "escape", monkeypatch=monkeypatch)
    assert answer.is_stopped and answer.text != "".join(WORDS)


@pytest.mark.parametrize(("status", "problem"), [(409, ""), (403, "no, thanks")])
def test_a_change_that_is_refused_is_told_unless_it_only_came_too_late(
    monkeypatch: pytest.MonkeyPatch, status: int, problem: str
) -> None:
    answer, _ = written(Server(status), "right", monkeypatch=monkeypatch)
    assert answer.text == "".join(WORDS) and problem in answer.problem and bool(answer.problem) == bool(problem)


def test_the_command_talks_takes_commands_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    lines = iter(["/set warmth 0.5", "/set humour 1", "rain", "/new", "/reset", "/quit"])
    monkeypatch.setattr(chat_app, "AsyncMavisClient", server.client)
    monkeypatch.setattr(Console, "input", lambda *_, **__: next(lines))
    result = CliRunner().invoke(chat_app.app, ["--seed", "3", "--profile", "gentle"])
    assert result.exit_code == 0, result.output
    assert "got '/set humour 1', allowed is /set NAME WEIGHT" in result.output
    assert "The rain falls softly." in result.output and "warmth +0.50, 1.5 nats from the base" in result.output
    (asked,) = [body for method, body in server.asked if method == "POST"]
    assert (asked["seed"], asked["profile"], asked["objective_weights"]["warmth"]) == (3, "gentle", 0.5)


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    result = CliRunner().invoke(chat_app.app, ["--url", "http://127.0.0.1:9"])
    assert result.exit_code == 2 and "mavis chat: " in result.output and "Traceback" not in result.output
