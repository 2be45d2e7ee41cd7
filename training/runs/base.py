"""Where a run's base model lies on this machine.

Runs in any training process. Must not import torch or vllm.
"""

from pathlib import Path

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
