"""Prompts to time with: a checkpoint's own, in a seeded order. Must not import torch or vllm."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from training.prompts.chat import ChatPrompt

PromptsOption = Annotated[Path | None, typer.Option(help="JSON lines to time with; the checkpoint's if not given.")]


def drawn(prompts: Sequence[ChatPrompt], count: int, seed: int) -> list[ChatPrompt]:
    """`count` prompts that follow from the seed, all different as long as there are enough; named by their number."""
    rng = random.Random(seed)
    found: list[ChatPrompt] = []
    while len(found) < count:
        found += rng.sample(prompts, min(len(prompts), count - len(found)))
    return [replace(prompt, prompt_id=str(number)) for number, prompt in enumerate(found)]
