"""Prompts to train and measure on: a reader of JSON lines, and a split by prompt that never shifts.

One JSON object a line, with the user's message as its "prompt"; other keys are the file's own business. Must not import
torch or vllm.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from training.errors import PromptError
from training.recipe import Fractions

SPLIT_SALT = "value-prompts-1"


@dataclass(frozen=True)
class Prompt:
    """One user message. `id` follows from the text alone, so it survives reordering and additions."""

    id: str
    text: str

    @classmethod
    def of(cls, text: str) -> "Prompt":
        """The prompt with this text; its id is the first 12 hex digits of the text's sha256."""
        return cls(id=_digest(text)[:12], text=text)


class Split(NamedTuple):
    """Three disjoint parts of the prompts, each in the order the prompts were given."""

    train: tuple[Prompt, ...]
    validation: tuple[Prompt, ...]
    test: tuple[Prompt, ...]


def read_prompts_file(path: Path | str) -> tuple[Prompt, ...]:
    """The prompts of one file, in file order.

    Raises:
        PromptError: the file is missing, unreadable or empty, or a line is malformed or repeats an earlier prompt.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PromptError(f"prompt file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"prompt file {path} cannot be read: {error}") from error
    prompts: dict[str, Prompt] = {}
    # Not str.splitlines(): JSON strings may hold U+2028 and its like unescaped, and those end no line of such a file.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        prompt = Prompt.of(_text_of(line, f"{path}, line {number}"))
        if prompt.text in prompts:
            raise PromptError(f"{path}, line {number}: an earlier line has the same prompt: {prompt.text!r}")
        prompts[prompt.text] = prompt
    if not prompts:
        raise PromptError(f"prompt file {path} is empty; it needs at least one line")
    return tuple(prompts.values())


def split(prompts: Sequence[Prompt], fractions: Fractions, salt: str = SPLIT_SALT) -> Split:
    """Train, validation and test parts by prompt.

    Each prompt's part follows from its text, the salt and the fractions alone: adding, removing or reordering prompts
    moves no other prompt. The shares are therefore met in expectation, not exactly.

    Raises:
        PromptError: two prompts have the same text.
    """
    if len({prompt.text for prompt in prompts}) != len(prompts):
        raise PromptError("prompts to split must be unique; a repeated prompt would weigh double")
    borders = (fractions.train, fractions.train + fractions.validation)
    parts: tuple[list[Prompt], ...] = ([], [], [])
    for prompt in prompts:
        parts[bisect_right(borders, lot(prompt.text, salt))].append(prompt)
    train, validation, test = map(tuple, parts)
    return Split(train, validation, test)


def _text_of(line: str, where: str) -> str:
    try:
        entry = json.loads(line, object_pairs_hook=_unique_keys)
    except ValueError as error:
        raise PromptError(f"{where}: not a JSON object ({error})") from error
    text = entry.get("prompt") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f'{where}: got {line[:80]!r}, allowed is an object with a text as its "prompt"')
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PromptError(f"{where}: prompt holds half of a surrogate pair: {text!r}")
    return text


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entry = dict(pairs)
    if len(entry) != len(pairs):
        raise ValueError("a key appears twice")
    return entry


def lot(text: str, salt: str) -> float:
    """A point in [0, 1), uniform over texts: 52 bits of a hash, so the float is exact and never rounds up to 1."""
    return int(_digest(f"{salt}\0{text}")[:13], 16) / 2**52


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
