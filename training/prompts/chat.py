"""The prompts of a run: split, and rendered as the server's chat endpoint renders them.

Runs in a training stage's own process. Must not import torch or vllm.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from training.prompts.files import Prompt, read_prompts_file, split
from training.prompts_recipe import find_prompts
from training.recipe import Fractions
from training.runs.run_dir import replacing

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """One user message, rendered.

    Attributes:
        token_ids: the whole chat, up to where the reply begins.
    """

    prompt_id: str
    split: SplitName
    text: str
    token_ids: tuple[int, ...]


def chat_prompts(
    tokenizer: Any, prompts: Sequence[Prompt], fractions: Fractions, limit: int | None = None
) -> list[ChatPrompt]:
    """Split prompts and render each as a chat.

    Args:
        limit: keep only the first so many prompts of each split.
    """
    parts = split(prompts, fractions)
    return [
        ChatPrompt(prompt.id, name, prompt.text, render_chat(tokenizer, prompt.text))
        for name, part in zip(SPLITS, parts, strict=True)
        for prompt in part[:limit]
    ]


def prompts_to_test(tokenizer: Any, path: Path | str, limit: int | None = None) -> list[ChatPrompt]:
    """The first prompts of a file, all of them to test on.

    Raises:
        PromptError: the file cannot be used.
    """
    chosen = read_prompts_file(find_prompts(path))[:limit]
    return [ChatPrompt(each.id, "test", each.text, render_chat(tokenizer, each.text)) for each in chosen]


def render_chat(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of a chat with this one user message, ready for the reply; of the text alone without a template."""
    if not tokenizer.chat_template:
        return tuple(tokenizer(text)["input_ids"])
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
    )
    # The template writes the special tokens itself.
    return tuple(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def write_prompt_set(path: Path, prompts: Sequence[ChatPrompt]) -> None:
    """One JSON object a line."""
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(asdict(prompt)) + "\n" for prompt in prompts), encoding="utf-8")


def read_prompt_set(path: Path) -> list[ChatPrompt]:
    """What `write_prompt_set` wrote."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [ChatPrompt(**{**entry, "token_ids": tuple(entry["token_ids"])}) for entry in entries]
