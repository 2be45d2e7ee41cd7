"""Preference pairs: two replies to one chat, of which one was preferred.

    {"prompt": "...", "chosen": "...", "rejected": "..."}                     texts
    {"prompt": [...], "chosen": [...], "rejected": [...]}                     chat messages
    {"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": "..."}     whole dialogues that differ at their end

One JSON object a line, gzipped or not; other keys are the file's own business. Must not import torch or vllm.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import PairError

Message = dict[str, str]
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"\n\n(Human|Assistant):")
_FORMS = "prompt, chosen and rejected, as texts or as chat messages, or chosen and rejected as whole dialogues"
HELD_OUT_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Pair:
    """One comparison.

    Attributes:
        chat: what was said before, the user's message last.
        chosen, rejected: the replies.
    """

    chat: tuple[tuple[str, str], ...]
    chosen: str
    rejected: str

    @property
    def messages(self) -> list[Message]:
        """The chat as chat messages."""
        return [{"role": role, "content": content} for role, content in self.chat]

    @property
    def is_held_out(self) -> bool:
        """By its chat alone, so that no chat is trained on and measured with, and none ever moves."""
        digest = hashlib.sha256(f"pairs-1:{self.chat}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


@dataclass(frozen=True, slots=True)
class PairRecipe:
    """How a reward model is trained.

    Attributes:
        layers: of the base, its first so many; None: all.
        rank: of the LoRA adapter, which is merged at the end; max_length: tokens of chat and reply.
    """

    layers: int | None = None
    epochs: float = 1.0
    learning_rate: float = 3e-4
    batch_size: int = 16
    rank: int = 16
    max_length: int = 512
    seed: int = 0


def read_pairs(path: Path, limit: int | None = None) -> list[Pair]:
    """The pairs of a file, in its order; replies that are equal say nothing and are left out.

    Raises:
        PairError: the file cannot be read, a line is none, or nothing is left.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    pairs: list[Pair] = []
    try:
        with opened(path, "rt", encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip() and (limit is None or len(pairs) < limit):
                    pair = _pair(line, f"{path}, line {number}")
                    pairs += [pair] if pair.chosen != pair.rejected else []
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise PairError(f"pairs {path} cannot be read: {error}") from None
    held_out = sum(pair.is_held_out for pair in pairs)
    if held_out < 2 or len(pairs) - held_out < 2:
        raise PairError(f"{path} holds {len(pairs)} pairs, {held_out} of them held out; allowed are 2 and more of both")
    return pairs


def _pair(line: str, where: str) -> Pair:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise PairError(f"{where}: no JSON: {error}") from None
    if not isinstance(row, dict) or not {"chosen", "rejected"} <= row.keys():
        raise PairError(f"{where}: got {line.strip()[:80]!r}, allowed are {_FORMS}")
    if "prompt" in row:
        chat, chosen, rejected = _chat(row["prompt"]), _reply(row["chosen"]), _reply(row["rejected"])
    else:
        (chat, chosen), (other, rejected) = _dialogue(row["chosen"]), _dialogue(row["rejected"])
        if chat != other:
            raise PairError(f"{where}: the dialogues differ before their last reply; allowed is one chat with two ends")
    if not chat or chosen is None or rejected is None:
        raise PairError(f"{where}: got {line.strip()[:80]!r}, allowed are {_FORMS}")
    return Pair(chat, chosen, rejected)


def _chat(prompt: Any) -> tuple[tuple[str, str], ...]:
    """() where it is none."""
    if isinstance(prompt, str):
        return (("user", prompt),) if prompt else ()
    return _messages(prompt)


def _reply(reply: Any) -> str | None:
    if isinstance(reply, str):
        return reply
    messages = _messages(reply)
    return messages[0][1] if len(messages) == 1 and messages[0][0] == "assistant" else None


def _messages(value: Any) -> tuple[tuple[str, str], ...]:
    found = []
    for message in value if isinstance(value, Sequence) and not isinstance(value, str) else ():
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            return ()
        found.append((message["role"], message["content"]))
    return tuple(found)


def _dialogue(text: Any) -> tuple[tuple[tuple[str, str], ...], str | None]:
    """The chat and its last reply."""
    turns = _TURN.split(text)[1:] if isinstance(text, str) else []
    spoken = [(_SPEAKERS[who], said.strip()) for who, said in zip(turns[::2], turns[1::2], strict=True)]
    if len(spoken) < 2 or spoken[-1][0] != "assistant":
        return (), None
    return tuple(spoken[:-1]), spoken[-1][1]
