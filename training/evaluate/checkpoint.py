"""What a measuring command starts from and ends in: a value checkpoint on its base, and a JSON file of figures.

Runs in the command's process. Must not import torch or vllm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from training.base import base_folder as look_up_base
from training.progress import console
from training.run_dir import write_json
from valuemodels.contract.guidance import Guidance, Scoring
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.value_config import ValueConfig, read_value_config
from valuemodels.sources.embedded import EMBEDDED_VALUES
from valuemodels.sources.hub import resolve_folder

ValuesOption = Annotated[str | None, typer.Option(help="Value checkpoint; the shipped one if not given.")]
OutOption = Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")]
BaseFolderOption = Annotated[Path | None, typer.Option(help="Where the base model lies on this machine.")]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Attributes:
        config: of the value checkpoint.
        base: folder of the base model.
        guide: the checkpoint on this base, for an engine.
    """

    config: ValueConfig
    base: str
    guide: GuideConfig

    def scoring(self, asked: Scoring | None) -> Scoring:
        """The scoring to measure: the one asked for, else the one that requests get which do not say.

        Raises:
            GuidanceError: the checkpoint does not offer it.
        """
        policy = self.guide.policy(self.config.names, self.config.scorings)
        policy.check(Guidance("", scoring=asked))
        return asked or policy.default_scoring


def find_subject(values: str | None, base_folder: Path | None) -> Subject:
    """The checkpoint and its base on this machine; None is the shipped checkpoint, and the base that it names.

    Raises:
        HubError: one of them is not there.
        CheckpointError: the checkpoint's config is wrong.
        EmbeddedModelError: the embedded base could not be prepared.
    """
    folder = resolve_folder(values or str(EMBEDDED_VALUES))
    config = read_value_config(folder)
    base = str(base_folder) if base_folder else look_up_base(config.base_model)
    return Subject(config, base, GuideConfig(checkpoints=(str(folder),), base_model=base))


def write_report(out: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures and say where they are; nothing without `out`."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, figures)
        console.print(f"written to {out}", soft_wrap=True)
