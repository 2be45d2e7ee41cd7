"""A judge behind an OpenAI-compatible endpoint: both orders, ties, and whatever it does wrong in one sentence."""

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from training.errors import RewardError
from training.rewards.judge import Judge

PROMPTS = ["one", "two", "three"]


class Endpoint:
    """Judges by length; `bias` says "first" whenever the lengths are equal, `says` is its answer to everything."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.bias, self.says, self.status = False, "", 200
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append({**body, "key": self.headers["Authorization"]})
                message = {"role": "assistant", "content": endpoint.says or endpoint.judge(body)}
                answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
                choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
                self.send_response(endpoint.status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps({**answer, "choices": choices}).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def judge(self, body: dict[str, Any]) -> str:
        text = body["messages"][0]["content"]
        first, second = (len(re.findall(rf"<{tag}>\n(.*)\n</{tag}>", text)[0]) for tag in ("first", "second"))
        tie = "first" if self.bias else "tie"
        return json.dumps({"better": tie if first == second else "first" if first > second else "second"})


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    running = Endpoint()
    yield running
    running.server.shutdown()


@pytest.fixture
def references(tmp_path: Path) -> str:
    path = tmp_path / "references.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": prompt, "reply": "1234"}) for prompt in PROMPTS) + "\n\n")
    return str(path)


def test_a_reply_is_held_against_the_reference_in_both_orders(endpoint: Endpoint, references: str) -> None:
    judge = Judge("m", references, endpoint.url, criterion="Which is longer?")
    assert judge(PROMPTS, ["12345", "1", "abcd"]) == [1.0, 0.0, 0.5]
    assert len(endpoint.asked) == 6 and all(body["model"] == "m" for body in endpoint.asked)
    assert all(body["messages"][0]["content"].startswith("Which is longer?") for body in endpoint.asked)


def test_a_judge_that_prefers_what_comes_first_makes_ties_and_no_wins(endpoint: Endpoint, references: str) -> None:
    endpoint.bias = True
    assert Judge("m", references, endpoint.url)(["one"], ["abcd"]) == [0.5]


def test_the_key_comes_from_the_environment(
    endpoint: Endpoint, references: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    Judge("m", references, endpoint.url, key_variable="JUDGE_KEY")(["one"], ["a"])
    assert endpoint.asked[0]["key"] == "Bearer secret"
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(RewardError, match="key_variable: environment variable JUDGE_KEY is not set"):
        Judge("m", references, endpoint.url, key_variable="JUDGE_KEY")


@pytest.mark.parametrize("says", ["I like the first", '{"better": "both"}', "[]", "3"])
def test_an_answer_that_is_no_verdict_is_one_sentence(endpoint: Endpoint, references: str, says: str) -> None:
    endpoint.says = says
    with pytest.raises(RewardError, match=r"reward judge m: got .* allowed is"):
        Judge("m", references, endpoint.url)(["one"], ["a"])


def test_an_endpoint_that_refuses_is_one_sentence(endpoint: Endpoint, references: str) -> None:
    endpoint.status = 400
    with pytest.raises(RewardError, match="reward judge m: BadRequestError"):
        Judge("m", references, endpoint.url, attempts=1)(["one"], ["a"])


def test_a_prompt_without_a_reference_is_named(endpoint: Endpoint, references: str) -> None:
    with pytest.raises(RewardError, match="has no reference reply to the prompt 'four'"):
        Judge("m", references, endpoint.url)(["four"], ["a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ('{"prompt": "a", "reply": "b"}\n{"prompt": "a"}', "line 2: allowed is JSON with prompt and reply"),
        ("no json", "line 1"),
        ("3", "line 1"),
    ],
)
def test_a_file_of_references_that_is_none_is_one_sentence(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RewardError, match=message):
        Judge("m", str(path), "http://127.0.0.1:1")
