"""What people do to texts while they are written: read what is known of them, and change their weights.

Runs in the command's process. Must not import torch or vllm.
"""

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp
import numpy as np

from training.bench.load import Beside
from training.errors import MeasurementError

READ_EVERY_S = 0.5
_TOKEN = "a-token-of-the-benchmark"
_OVER = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
_SOON_TOKENS = 2


def headers_of(label: str, row: int) -> dict[str, str]:
    """What makes a stream's id and token known beforehand."""
    return {"X-Request-Id": f"{label}-{row}", "X-Generation-Token": _TOKEN}


@dataclass(slots=True)
class Changes:
    """Changes that were answered.

    Attributes:
        latencies_s: from a change to its answer.
        lags: tokens between the last that had arrived when the answer came and the first that the change holds for.
    """

    latencies_s: list[float] = field(default_factory=list)
    lags: list[int] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Latencies in ms, and the share of changes that hold soon."""
        p50, p95, longest = (1000 * float(np.quantile(self.latencies_s, share)) for share in (0.5, 0.95, 1.0))
        within = sum(lag <= _SOON_TOKENS for lag in self.lags) / len(self.lags)
        return {
            "changes": len(self.latencies_s),
            "p50_ms": p50,
            "p95_ms": p95,
            "max_ms": longest,
            "within_two": within,
        }


@dataclass(frozen=True, slots=True)
class LiveSide:
    """What is asked for, and what is done to the streams.

    Attributes:
        fields: of the requests, beside the weights.
        watched: everything that is known of every stream is read every `READ_EVERY_S`.
        changes_per_s: of every stream, to weights by lot.
    """

    name: str
    fields: Mapping[str, object] = field(default_factory=dict)
    watched: bool = False
    changes_per_s: float = 0.0

    def beside(self, label: str, objectives: Sequence[str], changes: Changes, max_tokens: int) -> Beside:
        """What is done while the streams of `label` run, and noted in `changes`."""

        async def busy(http: aiohttp.ClientSession, streams: Sequence[Sequence[float]]) -> None:
            rng = random.Random(label)
            tasks = []
            for row, times in enumerate(streams):
                if self.watched:
                    tasks.append(_read(http, label, row, rng.random()))
                if self.changes_per_s:
                    every_s = 1 / self.changes_per_s
                    stream = _Changed(http, label, row, times, max_tokens)
                    tasks.append(stream.keep_changing(objectives, every_s, changes, random.Random(f"{label}-{row}")))
            await asyncio.gather(*tasks)

        return busy


async def _read(http: aiohttp.ClientSession, label: str, row: int, share: float) -> None:
    """Read all that is known of a stream, again and again. `share` of the first pause, so that not all read at once."""
    await asyncio.sleep(share * READ_EVERY_S)
    while True:
        async with http.get(f"/v1/generations/cmpl-{label}-{row}", headers=headers_of(label, row)) as answer:
            text = await answer.text()
        if answer.status not in (HTTPStatus.OK, *_OVER):
            raise MeasurementError(f"reading a stream was answered with {answer.status}: {text[:300]}")
        await asyncio.sleep(READ_EVERY_S)


@dataclass(frozen=True, slots=True)
class _Changed:
    """A stream whose weights are changed.

    Attributes:
        times: when its request was sent, and when each of its tokens came so far.
    """

    http: aiohttp.ClientSession
    label: str
    row: int
    times: Sequence[float]
    max_tokens: int

    async def keep_changing(
        self, objectives: Sequence[str], every_s: float, changes: Changes, rng: random.Random
    ) -> None:
        """From its first token to its end, a change every so often."""
        await asyncio.sleep(rng.random() * every_s)
        due = time.perf_counter()
        while len(self.times) <= self.max_tokens:
            if len(self.times) > 1:
                await self._change({name: rng.uniform(-1, 1) for name in objectives}, changes)
            due = max(due + every_s, time.perf_counter())
            await asyncio.sleep(due - time.perf_counter())

    async def _change(self, weights: Mapping[str, float], changes: Changes) -> None:
        asked = time.perf_counter()
        path, headers = f"/v1/generations/cmpl-{self.label}-{self.row}", headers_of(self.label, self.row)
        async with self.http.patch(path, json={"objective_weights": dict(weights)}, headers=headers) as answer:
            text = await answer.text()
        if answer.status in _OVER:
            return
        if answer.status != HTTPStatus.OK:
            raise MeasurementError(f"a change was answered with {answer.status}: {text[:300]}")
        changes.latencies_s.append(time.perf_counter() - asked)
        changes.lags.append(json.loads(text)["effective_from_token"] - (len(self.times) - 1))
