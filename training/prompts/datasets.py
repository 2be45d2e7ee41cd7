"""Prompts from a dataset of the hub or in a folder, as the recipe says; and one reader for both kinds of source.

Must not import torch or vllm. `datasets` is imported when it is needed: it takes a second.
"""

import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from training.errors import PromptError
from training.prompts.files import Prompt, lot, read_prompts_file
from training.prompts_recipe import DatasetRecipe
from training.recipe import Recipe
from valuemodels.contract.errors import first_line

_LOT = "dataset-prompts-1"


def load_prompts(recipe: Recipe) -> tuple[Prompt, ...]:
    """The prompts that a recipe names.

    Raises:
        PromptError: they cannot be used.
    """
    source = recipe.prompts
    return load_dataset_prompts(source) if isinstance(source, DatasetRecipe) else read_prompts_file(recipe.prompts_path)


def load_dataset_prompts(source: DatasetRecipe) -> tuple[Prompt, ...]:
    """The prompts of a dataset, in its order; fetched first where it is not on this machine.

    Raises:
        PromptError: it cannot be loaded, has no such column, or gives no prompt.
    """
    found = {prompt.text: prompt for row in _rows(source) if (prompt := _prompt(row, source)) is not None}
    prompts = tuple(found.values())
    if not prompts:
        low, high = source.characters
        raise PromptError(f"prompts: {source.dataset} gives none of {low} to {high} characters by {source.template!r}")
    if source.at_most is None or source.at_most >= len(prompts):
        return prompts
    drawn = set(sorted(found, key=lambda text: lot(text, _LOT))[: source.at_most])
    return tuple(prompt for prompt in prompts if prompt.text in drawn)


def _rows(source: DatasetRecipe) -> Iterable[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(
            source.dataset,
            source.configuration,
            data_dir=source.data_dir,
            split=source.part,
            # A folder has no revisions.
            **({} if Path(source.dataset).is_dir() else {"revision": source.revision}),
        )
    except Exception as error:  # the library, the hub's client and its transport each raise trees of their own
        raise PromptError(f"prompts: dataset {source.dataset} cannot be loaded: {first_line(error)}") from error
    return rows


class _EmptyColumn(Exception):
    """A row holds nothing where the template asks for something."""


class _Columns(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            raise _EmptyColumn
        return str(super().format_field(value, format_spec))


def _prompt(row: Mapping[str, Any], source: DatasetRecipe) -> Prompt | None:
    """None where the row gives none."""
    try:
        text = _Columns().vformat(source.template, (), row)
    except _EmptyColumn:
        return None
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        columns = ", ".join(row)
        raise PromptError(
            f"prompts.template: got {source.template!r}, allowed are texts with columns of {source.dataset} in braces: "
            f"{columns}"
        ) from None
    if source.between is not None:
        begin, end = source.between
        _, _, after = text.partition(begin)
        text, mark, _ = after.partition(end)
        if not mark:
            return None
    text = text.strip()
    low, high = source.characters
    return Prompt.of(text) if low <= len(text) <= high else None
