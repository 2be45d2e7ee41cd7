"""A run's base model: where it lies on this machine, and what ends its replies.

Runs in any training process. Must not import torch or vllm; `end_tokens`, where it is called, imports transformers.
"""

from pathlib import Path
from typing import Any

from training.recipe import Recipe
from valuemodels.sources.embedded import EMBEDDED, prepare_embedded_base
from valuemodels.sources.hub import resolve_folder


def find_base(recipe: Recipe, base_folder: Path | None = None) -> str:
    """The folder of a recipe's base model, which is converted or fetched first where that is still to be done."""
    if base_folder is not None:
        return str(base_folder)
    return look_up_base(recipe.base, recipe.base_revision)


def look_up_base(base: str, revision: str | None = None) -> str:
    """A folder with a base model's weights and tokenizer, which is converted or fetched first where it is not there.

    Args:
        base: "embedded", or a folder or hub id.
    """
    return str(prepare_embedded_base() if base == EMBEDDED else resolve_folder(base, revision))


def end_tokens(base_folder: str, tokenizer: Any) -> list[int]:
    """The tokens that end a reply of the base, as its generation config and its tokenizer have them."""
    from transformers import AutoConfig, GenerationConfig

    try:
        ends = GenerationConfig.from_pretrained(base_folder).eos_token_id
    except OSError:  # it has no such file
        ends = AutoConfig.from_pretrained(base_folder, trust_remote_code=False).eos_token_id
    named = ends if isinstance(ends, list) else [ends]
    return sorted({token for token in (*named, tokenizer.eos_token_id) if token is not None})
