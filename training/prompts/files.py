"""Prompts to train and measure on: a strict reader of JSONL files and a split by prompt that never shifts.

Runs in the training process. Imports the standard library only: no torch, no vllm.

One JSON object a line, with exactly the keys "prompt" and "kind". Whatever deviates from that is an error that names
the line.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import NamedTuple

KINDS = ("question", "task", "chat", "opinion", "story", "advice", "explanation", "provocation")
EMBEDDED_PROMPTS = Path(__file__).parent / "embedded.jsonl"
SPLIT_SALT = "value-prompts-1"
_KEYS = frozenset({"prompt", "kind"})


class PromptError(ValueError):
    """Prompts cannot be used; the message names the file, the line and the reason."""


@dataclass(frozen=True)
class Prompt:
    """One user message. `id` follows from the text alone, so it survives reordering and additions."""

    id: str
    text: str
    kind: str

    @classmethod
    def of(cls, text: str, kind: str) -> "Prompt":
        """The prompt with this text; its id is the first 12 hex digits of the text's sha256."""
        return cls(id=_digest(text)[:12], text=text, kind=kind)


class Fractions(NamedTuple):
    """Target shares of the three parts, each in 0 .. 1, together 1."""

    train: float
    validation: float
    test: float


EMBEDDED_FRACTIONS = Fractions(train=0.70, validation=0.15, test=0.15)


class Split(NamedTuple):
    """Three disjoint parts of the prompts, each in the order the prompts were given."""

    train: tuple[Prompt, ...]
    validation: tuple[Prompt, ...]
    test: tuple[Prompt, ...]


def load_prompts(path: Path | str = EMBEDDED_PROMPTS) -> tuple[Prompt, ...]:
    """The prompts of one JSONL file, in file order.

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
    # Not str.splitlines(): JSON strings may hold U+2028 and its like unescaped, and those end no JSONL line.
    lines = content.removesuffix("\n").split("\n") if content.strip() else []
    if not lines:
        raise PromptError(f"prompt file {path} is empty; it needs at least one line")
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(lines, start=1):
        prompt = _parse_line(line, f"{path}, line {number}")
        if prompt.text in prompts:
            raise PromptError(f"{path}, line {number}: an earlier line has the same prompt: {prompt.text!r}")
        prompts[prompt.text] = prompt
    return tuple(prompts.values())


def split(prompts: Sequence[Prompt], fractions: Fractions = EMBEDDED_FRACTIONS, salt: str = SPLIT_SALT) -> Split:
    """Train, validation and test parts by prompt.

    Each prompt's part follows from its text, the salt and the fractions alone: adding, removing or reordering prompts
    moves no other prompt. The shares are therefore met in expectation, not exactly.

    Raises:
        PromptError: the fractions do not sum to 1 or one lies outside 0 .. 1, or two prompts have the same text.
    """
    _check_fractions(fractions)
    if len({prompt.text for prompt in prompts}) != len(prompts):
        raise PromptError("prompts to split must be unique; a repeated prompt would weigh double")
    borders = (fractions.train, fractions.train + fractions.validation)
    parts: tuple[list[Prompt], ...] = ([], [], [])
    for prompt in prompts:
        parts[bisect_right(borders, _position(prompt.text, salt))].append(prompt)
    train, validation, test = map(tuple, parts)
    return Split(train, validation, test)


def data_hash(prompts: Iterable[Prompt]) -> str:
    """64 hex digits that identify these prompts, kinds and their order; for manifests and for resuming a run."""
    return _digest("\n".join(json.dumps([prompt.text, prompt.kind]) for prompt in prompts))


def _parse_line(line: str, where: str) -> Prompt:
    try:
        entry = json.loads(line, object_pairs_hook=_unique_keys)
    except ValueError as error:
        raise PromptError(f"{where}: not a JSON object ({error})") from error
    if not isinstance(entry, dict):
        raise PromptError(f"{where}: expected a JSON object, found {type(entry).__name__}")
    if unknown := sorted(entry.keys() - _KEYS):
        raise PromptError(f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(_KEYS))}")
    if missing := sorted(_KEYS - entry.keys()):
        raise PromptError(f"{where}: key {missing[0]!r} is missing")
    text, kind = entry["prompt"], entry["kind"]
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f"{where}: prompt must be a string with visible text, found {text!r}")
    if text != text.strip():
        raise PromptError(f"{where}: prompt has whitespace at its start or end: {text!r}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PromptError(f"{where}: prompt holds half of a surrogate pair: {text!r}")
    if kind not in KINDS:
        raise PromptError(f"{where}: kind {kind!r} is unknown; allowed: {', '.join(KINDS)}")
    return Prompt.of(text, kind)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entry = dict(pairs)
    if len(entry) != len(pairs):
        raise ValueError("a key appears twice")
    return entry


def _check_fractions(fractions: Fractions) -> None:
    for name, value in fractions._asdict().items():
        if not (isfinite(value) and 0 <= value <= 1):
            raise PromptError(f"split fraction {name} is {value}; allowed: 0 .. 1")
    if abs(sum(fractions) - 1) > 1e-9:
        raise PromptError(f"split fractions {tuple(fractions)} sum to {sum(fractions)}; they must sum to 1")


def _position(text: str, salt: str) -> float:
    """A point in [0, 1), uniform over texts: 52 bits of a hash, so the float is exact and never rounds up to 1."""
    return int(_digest(f"{salt}\0{text}")[:13], 16) / 2**52


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
