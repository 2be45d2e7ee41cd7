"""A judge model as a reward: how a reply fares against a reference reply to the same prompt, asked in both orders.

Any OpenAI-compatible endpoint serves. A judge prefers what it reads first, or last; a reply that wins in one order and
loses in the other has tied.
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from training.errors import RewardError

CRITERION = "Which reply answers the user better?"
_FIELD = "better"
_VERDICTS = ["first", "second", "tie"]
_FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {_FIELD: {"type": "string", "enum": _VERDICTS}},
            "required": [_FIELD],
            "additionalProperties": False,
        },
    },
}
_QUESTION = """{criterion}

The user wrote:
<user>
{prompt}
</user>

The first reply:
<first>
{first}
</first>

The second reply:
<second>
{second}
</second>

Judge by the question above alone, not by length or order. Answer with JSON alone: {{"better": "first"}},
{{"better": "second"}} or {{"better": "tie"}}."""


class Judge:
    """1 for a reply that wins in both orders, 0 for one that loses in both, and what lies between."""

    def __init__(
        self,
        model: str,
        references: str,
        base_url: str | None = None,
        criterion: str = CRITERION,
        key_variable: str | None = None,
        concurrency: int = 8,
        timeout_s: float = 60.0,
        attempts: int = 6,
    ) -> None:
        """
        Args:
            model: the judge's name at the endpoint; base_url: of the endpoint, None is OpenAI's own.
            references: a file of JSON lines with a `prompt` and a `reply` each, one for every prompt that is scored.
            criterion: what the judge is asked.
            key_variable: names the environment variable that holds the key, which itself is in no file. None takes
                OPENAI_API_KEY where that is set, and no key where it is not.
            attempts: how often a question is sent at most, to an endpoint that is busy or away.

        Raises:
            RewardError: the file of references cannot be used, or an argument is out of range.
        """
        from openai import OpenAI

        for field, number in (("concurrency", concurrency), ("timeout_s", timeout_s), ("attempts", attempts)):
            if not number > 0:
                raise RewardError(f"reward judge: {field}: got {number!r}, allowed are numbers above 0")
        key = os.environ.get(key_variable or "OPENAI_API_KEY")
        if key_variable and not key:
            raise RewardError(f"reward judge: key_variable: environment variable {key_variable} is not set")
        self._references = _read_references(Path(references))
        self._path = references
        self._model, self._criterion, self._concurrency = model, criterion, concurrency
        self._client = OpenAI(
            base_url=base_url,
            api_key=key or "none",
            timeout=timeout_s,
            max_retries=attempts - 1,
        )

    @staticmethod
    def depends_on(parameters: Mapping[str, Any]) -> list[Path]:
        """The file of references."""
        return [Path(parameters["references"])]

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """Scores in {0, 0.25, 0.5, 0.75, 1}.

        Raises:
            RewardError: a prompt has no reference, or the judge cannot be had or gives no verdict.
        """
        for prompt in prompts:
            if prompt not in self._references:
                raise RewardError(f"reward judge: {self._path} has no reference reply to the prompt {prompt[:80]!r}")
        with ThreadPoolExecutor(self._concurrency) as threads:
            return list(threads.map(self._score, prompts, replies))

    def _score(self, prompt: str, reply: str) -> float:
        reference = self._references[prompt]
        as_first = {"first": 1.0, "tie": 0.5, "second": 0.0}[self._verdict(prompt, reply, reference)]
        as_second = {"first": 0.0, "tie": 0.5, "second": 1.0}[self._verdict(prompt, reference, reply)]
        return (as_first + as_second) / 2

    def _verdict(self, prompt: str, first: str, second: str) -> str:
        from openai import OpenAIError

        question = _QUESTION.format(criterion=self._criterion, prompt=prompt, first=first, second=second)
        try:
            answer: Any = self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": question}],
                temperature=0,
                response_format=_FORMAT,
            )
        except OpenAIError as error:
            raise RewardError(f"reward judge {self._model}: {type(error).__name__}: {error}") from None
        text: str = (answer.choices[0].message.content if answer.choices else None) or ""
        try:
            verdict = json.loads(text)[_FIELD]
        except (TypeError, ValueError, KeyError):
            verdict = None
        if verdict not in _VERDICTS:
            allowed = f"{{{_FIELD!r}: {' or '.join(_VERDICTS)}}}"
            raise RewardError(f"reward judge {self._model}: got {text!r}, allowed is {allowed}")
        return str(verdict)


def _read_references(path: Path) -> dict[str, str]:
    """Prompt -> the reply that others are held against."""
    references: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RewardError(f"reward judge: references: {path} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt, reply = row["prompt"], row["reply"]
        except (ValueError, KeyError, TypeError):
            row = prompt = reply = None
        if not isinstance(prompt, str) or not isinstance(reply, str):
            raise RewardError(f"reward judge: references: {path}, line {number}: allowed is JSON with prompt and reply")
        references[prompt] = reply
    return references
