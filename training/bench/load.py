"""Load on a server over HTTP: streams that begin at given times, and when each of their tokens arrives.

The client is aiohttp, as that of vLLM's own benchmark: httpx takes several times the processor time for a request,
which the server would miss on a machine that both share. Runs in the command's process. Must not import torch or vllm.
"""

import asyncio
import contextlib
import gc
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import pairwise

import aiohttp

from training.errors import MeasurementError

PATH = "/v1/completions"
_TIMEOUT_S = 600
_LONGEST_LINE_BYTES = 2**22
_DATA, _DONE = b"data: ", b"[DONE]"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request.

    Attributes:
        at_s: when it is sent, from the load's start.
        body, headers: of the request.
        is_watched: its times and tokens count; else it is only there to disturb the others, by one token.
    """

    at_s: float
    body: Mapping[str, object]
    is_watched: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadTiming:
    """What the streams of a load took.

    Attributes:
        seconds: from the first request to the last token.
        first_s: of every stream, from its request to its first chunk; gaps_s: between chunks, of all streams.
    """

    seconds: float
    tokens: int
    first_s: tuple[float, ...]
    gaps_s: tuple[float, ...]

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Timed:
    """A load, and the processor time that the server took for it, in s."""

    load: LoadTiming
    cpu_s: float

    @property
    def tokens_per_cpu_s(self) -> float:
        return self.load.tokens / self.cpu_s


Beside = Callable[[aiohttp.ClientSession, Sequence[Sequence[float]]], Awaitable[None]]
"""What else is done while the streams of a load run, and ended with them: it gets a client, and of every stream the
times so far, that of its request first."""


async def _nothing(http: aiohttp.ClientSession, streams: Sequence[Sequence[float]]) -> None:
    """Nothing else is done."""


def at_once(rows: int) -> list[float]:
    """Times of requests that are all sent at the start."""
    return [0.0] * rows


def poisson(requests: int, per_s: float, seed: int) -> list[float]:
    """Times of requests that come independently of each other, so many a second on average; the first at 0."""
    rng = random.Random(seed)
    times = [0.0]
    while len(times) < requests:
        times.append(times[-1] + rng.expovariate(per_s))
    return times


@dataclass(frozen=True, slots=True)
class Load:
    """What is put on a server, round by round.

    Attributes:
        times: of every round, when its streams are sent, in s.
        is_timed: tokens a second say something: the load does not set them itself.
        long_prompt: tokens of a prompt that comes in addition once the streams run; 0 = none.
    """

    name: str
    times: Sequence[Sequence[float]]
    max_tokens: int
    is_timed: bool = False
    long_prompt: int = 0


def run_load(url: str, arrivals: Sequence[Arrival], max_tokens: int, beside: Beside = _nothing) -> LoadTiming:
    """Send the requests, each as a stream of exactly `max_tokens` tokens, and wait for all of them.

    Raises:
        MeasurementError: a stream was refused or broke.
    """
    # A full collection of this process takes longer than many steps of a server, and would pass for one of them.
    gc.collect()
    gc.disable()
    try:
        return asyncio.run(_run(url, arrivals, max_tokens, beside))
    finally:
        gc.enable()


async def _run(url: str, arrivals: Sequence[Arrival], max_tokens: int, beside: Beside) -> LoadTiming:
    session = aiohttp.ClientSession(
        url,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        read_bufsize=_LONGEST_LINE_BYTES,
    )
    async with session as http:
        started = time.perf_counter()
        every: list[list[float]] = [[] for _ in arrivals]
        other = asyncio.ensure_future(beside(http, every))
        each = zip(arrivals, every, strict=True)
        try:
            await asyncio.gather(*(_stream(http, arrival, max_tokens, started, times) for arrival, times in each))
            seconds = time.perf_counter() - started
        finally:
            await _end(other)
    streams = [times for times, arrival in zip(every, arrivals, strict=True) if arrival.is_watched]
    gaps = tuple(later - earlier for times in streams for earlier, later in pairwise(times[1:]))
    first = tuple(times[1] - times[0] for times in streams)
    return LoadTiming(seconds, max_tokens * len(streams), first, gaps)


async def _end(task: asyncio.Future[None]) -> None:
    """End what was done beside the streams. Raises what it has raised."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _stream(
    http: aiohttp.ClientSession, arrival: Arrival, max_tokens: int, started: float, times: list[float]
) -> None:
    """Note when the request was sent, then when each of its chunks came."""
    await asyncio.sleep(started + arrival.at_s - time.perf_counter())
    tokens = max_tokens if arrival.is_watched else 1
    body = {**arrival.body, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    times.append(time.perf_counter())
    try:
        async with http.post(PATH, json=body, headers=arrival.headers) as answer:
            if answer.status != HTTPStatus.OK:
                raise MeasurementError(f"the server answered {answer.status}: {(await answer.text())[:300]}")
            async for raw in answer.content:
                line = raw.rstrip()
                if line.endswith(_DONE):
                    return
                if line.startswith(_DATA):
                    times.append(time.perf_counter())
                    if b'"error"' in line:
                        raise MeasurementError(f"a stream broke: {line.decode(errors='replace')[:300]}")
    except aiohttp.ClientError as error:
        raise MeasurementError(f"a stream broke after {len(times) - 1} chunks: {error!r}") from error
    raise MeasurementError(f"a stream ended after {len(times) - 1} chunks without saying that it was done")
