"""Engines that sample nothing: what they answer follows from what they are asked."""

from collections.abc import Sequence
from pathlib import Path
from string import ascii_letters, ascii_lowercase
from typing import Any, ClassVar

import torch

from tests.training.kit import FakeEngine
from tests.training.recorded import random_candidates, write_recorded
from training.rollouts.engine import Limits, Reply
from training.rollouts.requests import Request


class RecordingEngine:
    """Replies with letters by lot, and records the positions that they could have come from.

    Unguided requests are answered by a few words. Guided replies cost what a power of beta and their weights say.
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
        return [self._reply(request, number) for number, request in enumerate(requests)]

    def _reply(self, request: Request, number: int) -> Reply:
        dice = torch.Generator().manual_seed(request.seed % 2**31)
        guidance = request.guidance
        if guidance is None:
            words = [ascii_lowercase[int(n)] * 3 for n in torch.randint(26, (4,), generator=dice)]
            return Reply(request.prompt_id, request.prompt_token_ids, request.sample, (5,), " ".join(words), "stop")
        tokens = int(torch.randint(4, 9, (1,), generator=dice))
        columns = random_candidates(tokens, dice)
        chosen = torch.multinomial(columns["base_logprobs"].exp(), 1, generator=dice)
        sampled = columns["token_ids"].long().gather(1, chosen)[:, 0].tolist()
        if self._folder is not None:
            columns |= {"logprobs": columns["base_logprobs"].clone(), "place": torch.arange(tokens).int()}
            columns["sequence"] = torch.zeros(tokens, dtype=torch.int32)
            write_recorded(self._folder, columns, [guidance.generation_id], number)
        strength = guidance.beta or 1.0
        kl_nats = 4.5 * strength**1.8 if any(guidance.weights.values()) else 0.0
        text = " ".join(ascii_letters[token - 2] for token in sampled)
        prompt = (request.prompt_id, request.prompt_token_ids, request.sample)
        return Reply(*prompt, tuple(sampled), text, "length", kl_nats)


WORDS = ("good", "awful", "happy", "sad", "bread", "photosynthesis", "love", "hate")
KIND = ("good", "happy", "love", "bread")


class RoundsEngine(FakeEngine):
    """Replies with words by the seed, kinder where they are tilted, by as much as `kindness` says of the guide's round.

    A reply costs what a power of the strength says, so that calibration finds a scale.
    """

    kindness: tuple[float, ...] = (0.3, 0.6, 0.1)
    guides: list[str] = []  # noqa: RUF012 (reset by the fixture)

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        guide = arguments[2] if len(arguments) > 2 else None
        folder = "" if guide is None else guide.checkpoints[0]  # type: ignore[attr-defined]
        self._round = int(folder.split("iter_")[1][0]) if "iter_" in folder else 0
        type(self).guides.append(folder)

    def reply(self, request: Request) -> Reply:
        guidance = request.guidance
        share = 0.0 if guidance is None else type(self).kindness[self._round]
        picks = [(request.seed >> shift) % 8 for shift in range(0, 18, 3)]
        words = [KIND[pick % 4] if (request.seed + place) % 10 < 10 * share else WORDS[pick]
                 for place, pick in enumerate(picks)]  # fmt: skip
        kl_nats = 0.0 if guidance is None else 0.3 * (guidance.beta or 0.0) ** 1.8
        ratios = () if guidance is None else (0.5, 0.25, 0.25)
        prompt = (request.prompt_id, request.prompt_token_ids, request.sample)
        return Reply(*prompt, (5, 6, 7), " ".join(words), "length", kl_nats, ratios)
