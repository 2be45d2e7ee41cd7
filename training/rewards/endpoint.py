"""A reward that a service gives: prompts and replies go out as JSON, scores come back.

POST url   {"prompts": ["...", ...], "replies": ["...", ...]}   ->   {"scores": [0.5, ...]}
"""

import os
from collections.abc import Sequence
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from training.errors import RewardError

_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}


class Endpoint:
    """Asks a service over HTTP, in batches; a busy or unreachable one is asked again, each time after a longer wait."""

    def __init__(
        self,
        url: str,
        batch_size: int = 32,
        timeout_s: float = 60.0,
        attempts: int = 6,
        first_wait_s: float = 1.0,
        token_variable: str | None = None,
    ) -> None:
        """
        Args:
            timeout_s: of one batch.
            attempts: how often a batch is sent at most; first_wait_s: before the second time, doubled from then on.
            token_variable: names the environment variable that holds a bearer token. The token itself is in no file.

        Raises:
            RewardError: an argument is out of range, or the variable is not set.
        """
        for field, number in (("batch_size", batch_size), ("timeout_s", timeout_s), ("attempts", attempts)):
            if not number > 0:
                raise RewardError(f"reward endpoint: {field}: got {number!r}, allowed are numbers above 0")
        token = os.environ.get(token_variable) if token_variable else None
        if token_variable and not token:
            raise RewardError(f"reward endpoint: token_variable: environment variable {token_variable} is not set")
        try:
            self._url = httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as error:
            raise RewardError(f"reward endpoint: url: got {url!r}, which is none: {error}") from None
        if self._url.scheme not in ("http", "https"):
            raise RewardError(f"reward endpoint: url: got {url!r}, allowed are http and https")
        self._batch_size = batch_size
        self._retrying = Retrying(
            retry=retry_if_exception_type((httpx.TransportError, _BusyError)),
            stop=stop_after_attempt(attempts),
            wait=wait_exponential_jitter(multiplier=first_wait_s, max=60.0, jitter=first_wait_s),
            reraise=True,
        )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(timeout=timeout_s, headers=headers)

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """Scores of all replies.

        Raises:
            RewardError: the service cannot be reached, refuses, or answers something else.
        """
        scores: list[float] = []
        for start in range(0, len(replies), self._batch_size):
            batch = slice(start, start + self._batch_size)
            scores += self._batch(list(prompts[batch]), list(replies[batch]))
        return scores

    def _batch(self, prompts: list[str], replies: list[str]) -> list[float]:
        try:
            answer = self._retrying(self._ask, {"prompts": prompts, "replies": replies})
        except (httpx.HTTPError, _BusyError) as error:
            raise RewardError(f"reward endpoint {self._url}: {type(error).__name__}: {error}") from None
        scores = answer.get("scores") if isinstance(answer, dict) else None
        if not isinstance(scores, list) or len(scores) != len(replies):
            got = f"{len(scores)} scores" if isinstance(scores, list) else str(answer)[:100]
            allowed = f'{{"scores": [{len(replies)} numbers]}}'
            raise RewardError(f"reward endpoint {self._url}: got {got}, allowed is {allowed}")
        return scores

    def _ask(self, body: dict[str, Any]) -> Any:
        response = self._http.post(self._url, json=body)
        if response.status_code in _WORTH_ANOTHER_TRY:
            raise _BusyError(f"status {response.status_code}: {response.text[:200]}")
        if response.is_error:
            raise RewardError(f"reward endpoint {self._url}: status {response.status_code}: {response.text[:200]}")
        try:
            return response.json()
        except ValueError:
            raise RewardError(f"reward endpoint {self._url}: the answer is no JSON: {response.text[:100]!r}") from None


class _BusyError(Exception):
    """The service may answer later."""
