"""What a measuring command starts from and ends in: a value checkpoint on its base, and a JSON file of figures.

Runs in the command's process. Must not import torch or vllm.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from training.errors import RecipeError
from training.prompts.chat import ChatPrompt, SplitName, chat_prompts, prompts_to_test
from training.prompts.datasets import load_prompts
from training.recipe import EngineRecipe
from training.recipe_file import read_recipe
from training.rollouts.engine import Limits, RolloutEngine
from training.rollouts.sampler import SHARD_REPLIES, Sampler
from training.runs.base import look_up_base
from training.runs.progress import console
from training.runs.run_dir import folder_hash, write_json
from valuemodels.contract.evaluation import EVALUATION_FILE
from valuemodels.contract.guidance import Guidance, Scoring
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.value_config import ValueConfig, read_value_config
from valuemodels.sources.embedded import EMBEDDED
from valuemodels.sources.values import resolve_values

ObjectiveOption = Annotated[list[str] | None, typer.Option(help="Which sliders; all if not given.")]
ValuesOption = Annotated[str | None, typer.Option(help="Value checkpoint; the shipped one if not given.")]
OutOption = Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")]
PromptsOption = Annotated[
    Path | None, typer.Option(help='JSON lines with a "prompt"; the recipe\'s test prompts if not given.')
]
BaseFolderOption = Annotated[Path | None, typer.Option(help="Where the base model lies on this machine.")]
# More at once would leave the engine with half a batch sooner, when a shard's replies end.
_SEQUENCES = SHARD_REPLIES // 2


@dataclass(frozen=True, slots=True)
class EvaluatedCheckpoint:
    """What is measured.

    Attributes:
        folder: of the value checkpoint; config: its own words.
        base: folder of the base model.
        guide: the checkpoint on this base, for an engine.
    """

    folder: Path
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

    def sliders(self, asked: Sequence[str] | None) -> list[str]:
        """The objectives to measure: those asked for, else all.

        Raises:
            RecipeError: it has none of that name.
        """
        names = list(self.config.names)
        if unknown := [name for name in asked or () if name not in names]:
            raise RecipeError(f"objective: got {unknown[0]!r}, allowed is one of {', '.join(names)}")
        return list(dict.fromkeys(asked or names))

    def prompts(self, path: Path | None, limit: int | None = None, only: SplitName | None = "test") -> list[ChatPrompt]:
        """The first prompts of a file, or of those that the checkpoint's recipe kept for testing.

        Args:
            limit: None takes all.
            only: another part of the recipe's prompts; None is all of them.

        Raises:
            PromptError: the file cannot be used.
            RecipeError: the checkpoint's recipe is not known here.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.base, trust_remote_code=False)
        if path is not None:
            return prompts_to_test(tokenizer, path, limit)
        try:
            recipe = read_recipe(self.config.training.recipe)
        except RecipeError as error:
            raise RecipeError(f"{error}; or give --prompts FILE") from None
        rendered = chat_prompts(tokenizer, load_prompts(recipe), recipe.split)
        return [prompt for prompt in rendered if only in (None, prompt.split)][:limit]

    @property
    def rewards(self) -> dict[str, str]:
        """Objective -> id of its reward."""
        return {objective.name: objective.reward for objective in self.config.objectives}

    def inputs(self) -> dict[str, Any]:
        """What its replies depend on, for `inputs.json`."""
        return {
            "checkpoint": self.config.id,
            "values_content": folder_hash(self.folder, without=(EVALUATION_FILE,)),
            "base_content": folder_hash(self.base),
        }


def find_checkpoint(values: str | None, base_folder: Path | None) -> EvaluatedCheckpoint:
    """The checkpoint and its base on this machine; None is the shipped checkpoint, and the base that it names.

    Raises:
        HubError: one of them is not there.
        CheckpointError: the checkpoint's config is wrong.
        EmbeddedModelError: the embedded base could not be prepared.
    """
    folder = resolve_values(values or EMBEDDED)
    config = read_value_config(folder)
    base = str(base_folder) if base_folder else look_up_base(config.base_model)
    return EvaluatedCheckpoint(folder, config, base, GuideConfig(checkpoints=(str(folder),), base_model=base))


def engine_on(checkpoint: EvaluatedCheckpoint) -> Callable[[], RolloutEngine]:
    """Gives the engine of a checkpoint, through the guide that serves; it starts when it is first asked for."""
    return cache(lambda: RolloutEngine(checkpoint.base, EngineRecipe(max_num_seqs=_SEQUENCES), checkpoint.guide))


def sampler_on(
    checkpoint: EvaluatedCheckpoint,
    folder: Path,
    prompts: Sequence[ChatPrompt],
    max_tokens: int,
    seed: int,
    engine: Callable[[], RolloutEngine] | None = None,
) -> Sampler:
    """Samples from a checkpoint through the guide that serves; the engine starts with the first missing reply."""
    return Sampler(
        folder=folder,
        engine=engine or engine_on(checkpoint),
        sampled_from=checkpoint.inputs(),
        prompts=prompts,
        limits=Limits(max_tokens),
        seed=seed,
    )


def write_report(out: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures and say where they are; nothing without `out`. A figure that is no number becomes null."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, _json_ready(figures))
        console.print(f"written to {out}", soft_wrap=True)


def _json_ready(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _json_ready(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_json_ready(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
