"""Steering text while the real server writes it."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx
import pytest

from mavis_client import AsyncMavisClient, ConflictError, MavisClient, NotFoundError, PermissionDeniedError
from tests.e2e.conftest import Server
from tests.e2e.test_http import CHAT, MESSAGES, error_of, events

pytestmark = pytest.mark.engine

TOKEN = "a-token-for-end-to-end-tests"
MINE = {"X-Generation-Token": TOKEN}
UP, DOWN = {"positivity": 1.0}, {"positivity": -1.0}
LONG = {"messages": MESSAGES, "max_tokens": 48, "ignore_eos": True, "seed": 5}
UNSEEN = {"max_tokens": 192}
"""For answers that come whole: nobody sees how far they are, and a change has to find them under way."""


class Running(threading.Thread):
    """A generation under way in its own thread, so that its tokens are counted when they come.

    Attributes:
        arrivals: monotonic time of every token; chunks: what came, or the whole body as the only one.
    """

    def __init__(self, server: Server, request_id: str, **fields: Any) -> None:
        super().__init__()
        self.url = f"{server.url}{CHAT}"
        self.headers = {**MINE, "X-Request-Id": request_id}
        self.body = {**LONG, "return_values": True, **fields}
        self.arrivals: list[float] = []
        self.chunks: list[dict[str, Any]] = []

    def run(self) -> None:
        with httpx.Client(timeout=120) as http:
            if not self.body.get("stream"):
                self.chunks = [http.post(self.url, json=self.body, headers=self.headers).json()]
                return
            self.body |= {"return_token_ids": True}
            with http.stream("POST", self.url, json=self.body, headers=self.headers) as answer:
                lines = (line for line in answer.iter_lines() if line.startswith("data: {"))
                for line in lines:
                    chunk = json.loads(line.removeprefix("data: "))
                    self.chunks.append(chunk)
                    tokens = sum(len(choice.get("token_ids") or []) for choice in chunk["choices"])
                    self.arrivals += [time.monotonic()] * tokens

    def blocks(self, index: int = 0) -> list[dict[str, Any]]:
        """The `mavis` blocks of one choice."""
        choices = [choice for chunk in self.chunks for choice in chunk["choices"] if choice["index"] == index]
        return [choice["mavis"] for choice in choices if "mavis" in choice]

    def steering(self, index: int = 0) -> list[tuple[int, float]]:
        """(first token, weight of positivity), as the answer tells it."""
        entries = [entry for block in self.blocks(index) for entry in block.get("steering", [])]
        return [(entry["from_token"], entry["objective_weights"]["positivity"]) for entry in entries]


@contextmanager
def running(server: Server, request_id: str, **fields: Any) -> Iterator[Running]:
    made = Running(server, request_id, **fields)
    made.start()
    try:
        yield made
    finally:
        made.join(timeout=120)


def patch(http: httpx.Client, request_id: str, body: dict[str, Any], headers: dict[str, str] = MINE) -> httpx.Response:
    """Change a generation as soon as the server knows it."""
    deadline = time.monotonic() + 30
    while True:
        answer = http.patch(f"/v1/generations/chatcmpl-{request_id}", json=body, headers=headers)
        if answer.status_code != 404 or time.monotonic() > deadline:
            return answer
        time.sleep(0.02)


def turned_down(http: httpx.Client, request_id: str) -> int:
    """The token from which `DOWN` holds, of a generation that is asked for at this moment."""
    answer = patch(http, request_id, {"objective_weights": DOWN})
    assert answer.status_code == 200, answer.text
    effective: int = answer.json()["effective_from_token"]
    return effective


def test_a_change_holds_at_most_two_tokens_after_its_answer(server: Server, http: httpx.Client) -> None:
    """The least of a few tries counts: a busy machine delays the test's own reading of the stream."""
    lags: list[int] = []
    while not lags or (min(lags) > 2 and len(lags) < 4):
        with running(server, f"two-tokens-{len(lags)}", stream=True, objective_weights=UP) as stream:
            while len(stream.arrivals) < 10:
                time.sleep(0.005)
            answer = patch(http, f"two-tokens-{len(lags)}", {"objective_weights": DOWN})
            answered = time.monotonic()
        effective = answer.json()["effective_from_token"]
        lags.append(effective - sum(moment <= answered for moment in stream.arrivals))
        assert effective >= 10 and stream.steering() == [(0, 1.0), (effective, -1.0)]
        values = [token["values"]["positivity"] for block in stream.blocks() for token in block.get("tokens", [])]
        assert len(values) == 48
        assert sum(values[:effective]) > 0 > sum(values[effective:])
        assert stream.chunks[0]["generation_token"] == TOKEN
    assert min(lags) <= 2, lags


@pytest.mark.parametrize("weights", [UP, {"positivity": 0.0}], ids=["guided", "plain"])
def test_an_answer_that_is_not_streamed_can_be_steered(
    server: Server, http: httpx.Client, weights: dict[str, float]
) -> None:
    name = f"whole-{weights['positivity']}"
    with running(server, name, objective_weights=weights, return_values=False, **UNSEEN) as whole:
        time.sleep(0.3)  # let it begin: changes before the first token leave no trace of each other
        first = patch(http, name, {"objective_weights": DOWN})
        time.sleep(0.5)  # and a token by it: changes are answered before the step under way ends
        second = patch(http, name, {"objective_weights": {"positivity": None}})
    (block,) = whole.blocks()
    at = [first.json()["effective_from_token"], second.json()["effective_from_token"]]
    assert at == sorted(at)
    assert whole.steering()[-1] == (at[1], 0.0)
    assert "tokens" not in block and block["kl"] is not None and block["objective_weights"]["positivity"] == 0.0


def test_a_change_to_the_same_weights_changes_no_token(server: Server, http: httpx.Client) -> None:
    texts = []
    for name, change in (("untouched", None), ("touched", {"objective_weights": UP, "beta": 1.0, "kl_budget": None})):
        with running(server, name, objective_weights=UP, **UNSEEN) as whole:
            if change is not None:
                assert patch(http, name, change).status_code == 200
        (chunk,) = whole.chunks
        texts.append(chunk["choices"][0]["message"]["content"])
        assert whole.steering() == []
    assert texts[0] == texts[1]


def test_one_choice_is_steered_and_its_neighbour_is_not(server: Server, http: httpx.Client) -> None:
    with running(server, "neighbours", n=2, objective_weights=UP, **UNSEEN) as whole:
        answer = patch(http, "neighbours", {"objective_weights": DOWN, "choice": 1}).json()
    assert [choice["index"] for choice in answer["choices"]] == [1]
    assert whole.steering(0) == []
    assert whole.steering(1)[-1] == (answer["effective_from_token"], -1.0)


def test_strangers_the_unknown_and_the_finished(server: Server, http: httpx.Client) -> None:
    body = {**LONG, "max_tokens": 4, "objective_weights": UP}
    whole = http.post(CHAT, json=body).json()
    url, headers = f"/v1/generations/{whole['id']}", {"X-Generation-Token": whole["generation_token"]}
    state = http.get(url, headers=headers).json()
    assert state["status"] == "finished"
    assert state["choices"][0]["mavis"]["kl"] == pytest.approx(whole["choices"][0]["mavis"]["kl"])
    assert len(state["choices"][0]["mavis"]["tokens"]) == 4
    for status, answer in (
        (409, http.patch(url, json={"beta": 1}, headers=headers)),
        (404, http.patch(url, json={"beta": 1})),
        (403, http.get(url, headers=MINE)),
        (404, http.patch("/v1/generations/chatcmpl-nobody", json={"beta": 1}, headers=headers)),
        (400, http.patch(url, json={"kl_buget": 1}, headers=headers)),
    ):
        assert answer.status_code == status
        error_of(answer)


def test_the_sdk_steers_while_it_iterates(server: Server) -> None:
    with MavisClient(server.url) as client:
        options: dict[str, Any] = {
            "max_tokens": 40,
            "seed": 1,
            "return_values": True,
            "extra_body": {"ignore_eos": True},
        }
        with client.chat_stream("Tell me about rain.", objective_weights=UP, **options) as stream:
            for at, _ in enumerate(stream):
                if at == 8:
                    effective = stream.set_weights(DOWN, beta=1.5).effective_from_token
                    assert stream.generation.get().choices[0].mavis.objective_weights["positivity"] == -1.0
        block = stream.completion().choices[0].mavis
        assert block is not None
        assert [(entry.from_token, entry.beta) for entry in block.steering] == [(0, 1.0), (effective, 1.5)]
        with pytest.raises(PermissionDeniedError):
            client.generation(stream.generation.id, TOKEN).get()


def test_a_grid_of_weights_is_one_request(http: httpx.Client) -> None:
    """Prompts of one request are choices with the same seed; each begins with its own weights, and tells of them."""
    grid = [-1.0, 0.0, 1.0]
    schedule = [
        {"from_token": 0, "objective_weights": {"positivity": weight}, "choice": n} for n, weight in enumerate(grid)
    ]
    body = {"prompt": ["The sea"] * 3, "max_tokens": 16, "ignore_eos": True, "seed": 1, "schedule": schedule}
    whole = http.post("/v1/completions", json=body).json()["choices"]
    assert [choice["mavis"]["objective_weights"]["positivity"] for choice in whole] == grid
    streamed = [choice for chunk in events(http, "/v1/completions", body) for choice in chunk["choices"]]
    for n, weight in enumerate(grid):
        told = [entry for c in streamed if c["index"] == n for entry in c.get("mavis", {}).get("steering", [])]
        # What the request began with is told of only where it did not hold from the first token.
        expected = [] if not weight else [(0, weight)]
        assert [(entry["from_token"], entry["objective_weights"]["positivity"]) for entry in told] == expected
    refused = http.post("/v1/completions", json={**body, "prompt": "The sea"})
    assert error_of(refused)["param"] == "schedule.1.choice"


CHANGES, STREAMS, STREAM_TOKENS = 10_000, 16, 192
Timeline = list[tuple[int, float]]


async def change_all_the_time(client: AsyncMavisClient, weights: Iterator[int]) -> tuple[Timeline, Timeline, int]:
    """One stream that is changed as fast as answers come, to weights that nobody else has.

    Returns:
        (first token, weight) as the answers named them and as the text tells it, and how many changes there were.
    """

    def fresh() -> float:
        return next(weights) / 2**20

    first, changes = fresh(), 0
    told = {0: first}
    options: dict[str, Any] = {"max_tokens": STREAM_TOKENS, "extra_body": {"ignore_eos": True}}
    async with client.chat_stream("Tell me a story.", objective_weights={"positivity": first}, **options) as stream:
        await anext(stream)
        reading = asyncio.create_task(stream.completion())
        while not reading.done():
            weight = fresh()
            try:
                effective = await stream.set_weights({"positivity": weight})
            except (ConflictError, NotFoundError):
                break  # it has just ended
            told[effective.effective_from_token] = weight
            changes += 1
        block = (await reading).choices[0].mavis
    assert block is not None
    found = [(entry.from_token, entry.objective_weights["positivity"]) for entry in block.steering]
    return [(at, weight) for at, weight in sorted(told.items()) if at < STREAM_TOKENS], found, changes


@pytest.mark.slow
def test_ten_thousand_changes_lose_and_cross_nothing(server: Server) -> None:
    """Every trace shows exactly the changes of its own stream, from exactly the tokens that the answers named."""

    async def all_of_them() -> int:
        weights, total = count(1), 0
        async with AsyncMavisClient(server.url) as client:
            while total < CHANGES:
                streams = await asyncio.gather(*(change_all_the_time(client, weights) for _ in range(STREAMS)))
                for told, found, changes in streams:
                    assert found == told
                    total += changes
        return total

    assert asyncio.run(all_of_them()) >= CHANGES


def test_a_stream_of_plain_tokens_names_its_token_and_nothing_else(http: httpx.Client) -> None:
    body = {**LONG, "max_tokens": 4}
    steerable = events(http, CHAT, {**body, "objective_weights": {"positivity": 0}})
    plain = events(http, CHAT, body)
    assert [("generation_token" in chunk) for chunk in steerable] == [True] + [False] * (len(steerable) - 1)
    assert not any("generation_token" in chunk for chunk in plain)
    assert [chunk["choices"] for chunk in steerable] == [chunk["choices"] for chunk in plain]
