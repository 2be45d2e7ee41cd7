"""An engine for tests of the stages and commands around one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from training.rollouts.engine import Limits, Reply
from training.rollouts.requests import Request


class FakeEngine(ABC):
    """Stands where `RolloutEngine` does; a subclass says what it replies. `asked`: what the last one was asked for."""

    asked: ClassVar[list[Request]] = []

    def __init__(self, *_: Any) -> None:
        type(self).asked = []

    def sample(self, requests: Sequence[Request], limits: Limits) -> list[Reply]:
        self.asked.extend(requests)
        return [self.reply(request) for request in requests]

    def text_of(self, token_ids: Sequence[int]) -> str:
        return " ".join(f"word{token}" for token in token_ids)

    @abstractmethod
    def reply(self, request: Request) -> Reply: ...
