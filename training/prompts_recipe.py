"""The part of a training recipe that says where its prompts come from.

Runs in any training process. Must not import torch or vllm.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from training.fast_recipe import Count, Strict

PROMPTS = Path(__file__).parent / "prompts"


def find_prompts(name: str | Path) -> Path:
    """Where prompts lie: a file that ships, by its name alone, or else the path that the name is."""
    shipped = PROMPTS / name
    return shipped if shipped.is_file() else Path(name)


class DatasetRecipe(Strict):
    """Prompts from a dataset, on the hub or in a folder of JSON lines, CSV or Parquet.

    Attributes:
        dataset: a folder, or the hub's `owner/name`; revision: branch, tag or commit on the hub.
        configuration, data_dir: which part of a dataset that has several, by its name or its subfolder.
        part: which of its splits; ours are made from it.
        template: how a row becomes a prompt, columns in braces: "{prompt}", and "{info[post]}" of a column with parts.
        between: two marks in a text so made; the prompt is what stands from the first of one to the next of the other.
        characters: least and most; a row that gives fewer or more is left out, as is one that repeats a prompt.
        at_most: so many, by a lot that a row's text decides; None: all.
    """

    dataset: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    configuration: str | None = None
    data_dir: str | None = None
    part: str = "train"
    template: str = "{prompt}"
    between: tuple[str, str] | None = None
    characters: tuple[Count, Count] = (1, 4000)
    at_most: Count | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "DatasetRecipe":
        low, high = self.characters
        if low > high:
            raise ValueError(f"characters: the least, {low}, is above the most, {high}")
        return self
