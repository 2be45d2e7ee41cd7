"""Engines that sample nothing: what they answer follows from what they are asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.training.recorded import new_probe, random_embeddings, random_positions, write_shard
from training.rollouts.engine import Limits, Reply
from training.rollouts.requests import Request

REPLY_TOKENS = 3


class RecordingEngine:
    """Replies with three tokens, and records as many positions, whose values a probe could have.

    Guided replies cost what a power of beta and their weights say.
    """

    asked: ClassVar[list[Request]] = []
    dies_after: ClassVar[int | None] = None

    def __init__(self, *_: Any) -> None:
        self._folder: Path | None = None
        self._batches = 0

    def record(self, folder: Path | None) -> None:
        self._folder = folder

    def sample(self, requests: Sequence[Request], limits: Limits) -> list[Reply]:
        if self._batches == type(self).dies_after:
            raise RuntimeError("the engine died")
        self._batches += 1
        RecordingEngine.asked += requests
        if self._folder is not None:
            for number, request in enumerate(requests):
                seed = request.seed % 2**31
                columns = random_positions(REPLY_TOKENS, new_probe(seed=9), random_embeddings(), seed)
                write_shard(self._folder, columns, number)
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        guidance = request.guidance
        is_tilted = guidance is not None and any(guidance.weights.values())
        kl_nats = 0.3 * (guidance.beta or 1.0) ** 1.8 if guidance and is_tilted else 0.0
        tokens = tuple(range(5, 5 + REPLY_TOKENS))
        return Reply(request.prompt_id, request.prompt_token_ids, request.sample, tokens, "abc", "length", kl_nats)
