"""What the soak sends: requests of every kind, each with what must come of it."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

TOKEN = "the soak's own token"
HEADERS = {"X-Generation-Token": TOKEN}
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
WORDS = [
    "the",
    "a",
    "river",
    "house",
    "old",
    "man",
    "sea",
    "light",
    "never",
    "always",
    "walks",
    "sings",
    "bright",
    "small",
    "under",
    "above",
    "why",
    "how",
]

BAD: tuple[tuple[str, dict[str, Any]], ...] = (
    (COMPLETIONS, {"prompt": "a", "objective_weights": {"humour": 1}}),
    (COMPLETIONS, {"prompt": "a", "objective_weights": {"positivity": 1e9}}),
    (COMPLETIONS, {"prompt": "a", "n": 2_000_000_000}),
    (COMPLETIONS, {"prompt": "a", "beta": -1}),
    (COMPLETIONS, {"prompt": "a", "obj_weights": {}}),
    (COMPLETIONS, {"prompt": "word " * 5000, "max_tokens": 4}),
    (COMPLETIONS, {"prompt": "a", "return_values": "candidates", "max_tokens": 900, "n": 64}),
    (CHAT, {"messages": "no"}),
    (CHAT, {"messages": [{"role": "user", "content": "a"}], "vllm_xargs": {"mavis": 1}}),
    ("/v1/responses", {"input": "a", "objective_weights": {"positivity": 1}}),
)


@dataclass(slots=True)
class Tally:
    """What came of the load.

    Attributes:
        wrong: what should not have happened, in words; the run has failed where there is any.
        greedy: (request, what its answer was) of every guided greedy answer, to be held against the same alone.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    greedy: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def expect(self, what: str, answer: httpx.Response, *allowed: int) -> bool:
        """Count an answer; whether its status is one of those that may come."""
        self.statuses[answer.status_code] += 1
        if answer.status_code in allowed:
            return True
        self.wrong.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        return False


def greedy_request(number: int) -> dict[str, Any]:
    """One of the requests whose answers are compared; the same number is the same request."""
    chance = random.Random(number)
    prompt = " ".join(chance.choices(WORDS, k=chance.choice((3, 30, 120))))
    weights = {"positivity": chance.choice((-1, 0.5, 1)), "simplicity": chance.choice((0, 1))}
    return {
        "prompt": prompt,
        "temperature": 0,
        "max_tokens": chance.choice((8, 40, 160)),
        "ignore_eos": True,
        "objective_weights": weights,
        "candidates": 20,
        "return_values": "candidates",
    }


class Load:
    """One client among many: sends until it is told to stop."""

    def __init__(self, http: httpx.AsyncClient, tally: Tally, seed: int, greedy_requests: int) -> None:
        self._http = http
        self._tally = tally
        self._chance = random.Random(seed)
        self._greedy_requests = greedy_requests
        self._count = 0
        self._seed = seed

    async def run(self, is_over: asyncio.Event) -> None:
        """Send one request after another."""
        kinds = (self._bad, self._greedy, self._whole, self._streamed, self._left, self._steered)
        while not is_over.is_set():
            kind = self._chance.choices(kinds, weights=(10, 20, 20, 20, 15, 15))[0]
            try:
                await kind()
            except httpx.HTTPError as error:
                self._tally.wrong.append(f"{kind.__name__}: {error!r}")
            self._tally.outcomes[kind.__name__.lstrip("_")] += 1

    async def _bad(self) -> None:
        path, body = self._chance.choice(BAD)
        self._tally.expect(f"bad {body}"[:120], await self._http.post(path, json=body), 400)

    async def _greedy(self) -> None:
        number = self._chance.randrange(self._greedy_requests)
        answer = await self._http.post(COMPLETIONS, json=greedy_request(number))
        if self._tally.expect(f"greedy {number}", answer, 200):
            self._tally.greedy.append((number, answer.json()["choices"][0]))

    async def _whole(self) -> None:
        body = self._body()
        answer = await self._http.post(COMPLETIONS, json=body)
        if self._tally.expect("whole", answer, 200):
            choices = answer.json()["choices"]
            guided = ["mavis" in choice for choice in choices]
            if guided != [bool(body["objective_weights"])] * body["n"]:
                self._tally.wrong.append(f"whole: guided are {guided} of {body}")

    async def _streamed(self) -> None:
        async with self._http.stream("POST", COMPLETIONS, json={**self._body(), "stream": True}) as answer:
            if not await self._flows("streamed", answer):
                return
            lines = [line async for line in answer.aiter_lines() if line]
        if lines[-1] != "data: [DONE]" or any('"error"' in line for line in lines):
            self._tally.wrong.append(f"streamed: ends in {lines[-2:]}")

    async def _left(self) -> None:
        """A client that goes away: before the answer, or in the middle of a stream."""
        body = {**self._body(), "max_tokens": 300}
        if self._chance.random() < 0.5:
            with_timeout = httpx.Timeout(60, read=self._chance.uniform(0.01, 2))
            try:
                await self._http.post(COMPLETIONS, json=body, timeout=with_timeout)
            except httpx.ReadTimeout:
                return
            return
        chunks = self._chance.randrange(1, 40)
        async with self._http.stream("POST", COMPLETIONS, json={**body, "stream": True}) as answer:
            async for _ in answer.aiter_lines():
                chunks -= 1
                if not chunks:
                    return

    async def _steered(self) -> None:
        """A stream whose sliders are moved all the time, also by strangers and with nonsense."""
        self._count += 1
        name = f"soak-{self._seed}-{self._count}"
        headers = {**HEADERS, "X-Request-Id": name}
        body = {**self._body(), "max_tokens": 120, "stream": True}
        url = f"/v1/generations/cmpl-{name}"
        async with self._http.stream("POST", COMPLETIONS, json=body, headers=headers) as answer:
            if not await self._flows("steered", answer):
                return
            storm = asyncio.create_task(self._storm(url))
            try:
                lines = [line async for line in answer.aiter_lines() if line]
            finally:
                storm.cancel()
                await asyncio.wait([storm])
        if lines[-1] != "data: [DONE]" or any('"error"' in line for line in lines):
            self._tally.wrong.append(f"steered: ends in {lines[-2:]}")

    async def _storm(self, url: str) -> None:
        while True:
            weights = {"positivity": self._chance.uniform(-2, 2), "simplicity": None}
            changes: tuple[tuple[dict[str, Any], dict[str, str], tuple[int, ...]], ...] = (
                ({"objective_weights": weights}, HEADERS, (200, 409)),
                ({"beta": self._chance.uniform(0, 2), "kl_budget": 0.5}, HEADERS, (200, 409)),
                ({"beta": 99_999}, HEADERS, (400, 409)),
                ({"beta": 1}, {"X-Generation-Token": "a stranger's token"}, (403,)),
                ({"beta": 1}, {}, (404,)),
            )
            body, headers, allowed = self._chance.choice(changes)
            self._tally.expect(f"change {body}", await self._http.patch(url, json=body, headers=headers), *allowed)
            self._tally.outcomes["changes"] += 1
            if self._chance.random() < 0.2:
                self._tally.expect("state", await self._http.get(url, headers=HEADERS), 200)
            await asyncio.sleep(self._chance.uniform(0, 0.2))

    async def _flows(self, what: str, answer: httpx.Response) -> bool:
        if answer.status_code != 200:
            await answer.aread()
        return self._tally.expect(what, answer, 200)

    def _body(self) -> dict[str, Any]:
        chance = self._chance
        weights = chance.choice(({}, {"positivity": 1}, {"positivity": -0.5, "simplicity": 1}))
        n = chance.choice((1, 1, 1, 2, 4))
        return {
            "prompt": " ".join(chance.choices(WORDS, k=chance.choice((2, 20, 200)))),
            "n": n,
            "max_tokens": chance.choice((4, 30, 150)),
            "temperature": chance.choice((0.8, 1.2) if n > 1 else (0, 0.8, 1.2)),  # vLLM refuses equal choices
            "objective_weights": weights,
            **chance.choice(({}, {"scoring": "exact"}, {"scoring": "hybrid"}, {"scoring": "fast"})),
            **chance.choice(({}, {"kl_budget": 0.3}, {"candidates": 5}, {"candidate_min_p": 0.02}, {"seed": 7})),
            **chance.choice(({}, {"stop": ["e"]})),
        }
