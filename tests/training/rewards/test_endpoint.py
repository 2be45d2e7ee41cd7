"""A reward service: asked in batches, asked again while it is busy, and whatever it does wrong is one sentence."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from server.cluster.child import free_port
from training.errors import RewardError
from training.rewards.endpoint import Endpoint
from training.rewards.reward import checked_scores

PROMPTS, REPLIES = [f"p{n}" for n in range(5)], ["x" * n for n in range(5)]


class Service:
    """Scores a reply by its length; `faults` are answered first, one a request: a status, or a whole body."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, Any], str | None]] = []
        self.faults: list[int | str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append((body, self.headers.get("Authorization")))
                fault = service.faults.pop(0) if service.faults else None
                answer = json.dumps({"scores": [len(reply) for reply in body["replies"]]})
                self.send_response(fault if isinstance(fault, int) else 200)
                self.end_headers()
                self.wfile.write((fault if isinstance(fault, str) else answer).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/score"
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.server.shutdown()


def test_replies_go_out_in_batches_and_scores_come_back_in_order(service: Service) -> None:
    assert Endpoint(service.url, batch_size=2)(PROMPTS, REPLIES) == [0, 1, 2, 3, 4]
    assert [body["replies"] for body, _ in service.asked] == [REPLIES[:2], REPLIES[2:4], REPLIES[4:]]
    assert service.asked[0][0]["prompts"] == PROMPTS[:2] and service.asked[0][1] is None


def test_a_busy_service_is_asked_again(service: Service) -> None:
    service.faults = [503, 429, 500]
    assert Endpoint(service.url, first_wait_s=0.01)(PROMPTS, REPLIES) == [0, 1, 2, 3, 4]
    assert len(service.asked) == 4


def test_one_that_stays_busy_or_away_is_given_up(service: Service) -> None:
    service.faults = [503] * 9
    with pytest.raises(RewardError, match=r"endpoint http://127.*: _BusyError: status 503"):
        Endpoint(service.url, attempts=3, first_wait_s=0.01)(PROMPTS, REPLIES)
    assert len(service.asked) == 3
    with pytest.raises(RewardError, match="ConnectError"):
        Endpoint(f"http://127.0.0.1:{free_port()}", attempts=2, first_wait_s=0.01)(PROMPTS, REPLIES)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (404, "status 404"),
        ("nonsense", "the answer is no JSON: 'nonsense'"),
        ('{"scores": [1, 2]}', r"got 2 scores, allowed is {\"scores\": \[5 numbers\]}"),
        ('{"results": []}', "got {'results'"),
        ("[1, 2, 3, 4, 5]", r"got \[1, 2"),
    ],
)
def test_what_is_no_answer_is_one_sentence_and_not_asked_again(
    fault: int | str, message: str, service: Service
) -> None:
    service.faults = [fault]
    with pytest.raises(RewardError, match=message):
        Endpoint(service.url, first_wait_s=0.01)(PROMPTS, REPLIES)
    assert len(service.asked) == 1


def test_scores_that_are_no_numbers_are_refused_as_any_rewards_are(service: Service) -> None:
    service.faults = ['{"scores": [1, 2, null, 4, 5]}']
    with pytest.raises(RewardError, match="'far' scored reply 2 None"):
        checked_scores("far", Endpoint(service.url), PROMPTS, REPLIES)


def test_the_token_comes_from_the_environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_TOKEN", "secret")
    Endpoint(service.url, token_variable="REWARD_TOKEN")(PROMPTS, REPLIES)
    assert service.asked[0][1] == "Bearer secret"
    monkeypatch.delenv("REWARD_TOKEN")
    with pytest.raises(RewardError, match="token_variable: environment variable REWARD_TOKEN is not set"):
        Endpoint(service.url, token_variable="REWARD_TOKEN")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "ftp://x"}, "url: got 'ftp://x', allowed are http and https"),
        ({"url": "x"}, "url: got 'x'"),
        ({"url": "http://x", "batch_size": 0}, "batch_size: got 0, allowed are numbers above 0"),
        ({"url": "http://x", "timeout_s": -1}, "timeout_s: got -1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        Endpoint(**arguments)
