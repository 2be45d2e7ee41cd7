"""The distillation of several exact checkpoints into one: its recipe, its folder and its teachers.

Runs in any training process. Must not import torch or vllm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from training.errors import RecipeError
from training.recipe import ObjectiveRecipe, Recipe
from training.runs.base import find_base
from training.runs.inputs import pick
from training.runs.opened import open_folder
from training.runs.run import Run, StageInputs, StageName
from training.runs.run_dir import RunDir, content_hash
from training.runs.teacher import Teacher, read_teacher
from valuemodels.contract.value_config import ObjectiveConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRun(Run):
    """A trunk being regressed on the values of others, at every position of the base's replies.

    Attributes:
        teachers: their objectives are the recipe's, in this order.
    """

    kind: ClassVar[str] = "distill"
    values_stage: ClassVar[StageName] = "student"

    teachers: tuple[Teacher, ...]

    @property
    def made_of(self) -> dict[str, Any]:
        """See `Run.made_of`."""
        return {"teachers": [str(teacher.folder.absolute()) for teacher in self.teachers]}

    def own_inputs(self) -> StageInputs:
        """See `Run.own_inputs`."""
        return {
            "prompts": self.prompt_inputs(),
            "rollouts": pick(self.recipe, "seed", "engine", "rollout"),
            "teacher_values": {"teachers": [teacher.digest for teacher in self.teachers]},
            "student": pick(self.recipe, "backbone", "head", "fit"),
            "calibrate": pick(self.recipe, "calibrate"),
            "export": {"name": self.recipe.name},
        }

    @property
    def taught(self) -> dict[str, ObjectiveConfig]:
        """Objective -> what its teacher says of it."""
        return {objective.name: objective for teacher in self.teachers for objective in teacher.config.objectives}

    def base_rewards(self) -> dict[str, tuple[float, float]]:
        """See `Run.base_rewards`; the teachers say themselves what they are."""
        return {name: (objective.mean, objective.std) for name, objective in self.taught.items()}

    def clips(self) -> dict[str, tuple[float, float]]:
        """See `Run.clips`."""
        return {name: objective.clip for name, objective in self.taught.items()}

    def data_hash(self) -> str:
        """See `Run.data_hash`."""
        return content_hash(self.stage("teacher_values").inputs)

    def first_scales(self) -> dict[str, float]:
        """See `Run.first_scales`: what is a copy costs as much at about the same scales."""
        start = self.recipe.calibrate.start
        return {name: objective.scale or start for name, objective in self.taught.items()}


def distill_run(recipe: Recipe, folders: Sequence[Path], run_dir: Path, base_folder: Path | None = None) -> DistillRun:
    """A distillation.

    Args:
        recipe: its prompts, rollouts, trunk and fit count; its objectives are those of the checkpoints.
        folders: the checkpoints.

    Raises:
        CheckpointError: one of them is missing or broken, or has no exact values to give.
        RecipeError: two of them have an objective of one name.
    """
    teachers = tuple(read_teacher(folder) for folder in folders)
    seen: dict[str, Teacher] = {}
    for teacher in teachers:
        for name in teacher.config.names:
            if name in seen:
                raise RecipeError(
                    f"objective {name} is in {seen[name].folder} and in {teacher.folder}, allowed is once"
                )
            seen[name] = teacher
    objectives = tuple(
        ObjectiveRecipe(name=objective.name, description=objective.description, reward=objective.reward)
        for teacher in teachers
        for objective in teacher.config.objectives
    )
    # One round: what is copied gets no better by rounds.
    changes = {"objectives": objectives, "iterations": 1, "judge": None}
    recipe = recipe.model_copy(update=changes)
    return DistillRun(recipe, RunDir(run_dir), find_base(recipe, base_folder), teachers=teachers)


def open_distill_run(path: Path, base_folder: Path | None = None) -> DistillRun:
    """The distillation in a folder.

    Raises:
        RunDirError, RecipeError: see `open_folder`.
        CheckpointError: a teacher is no longer there.
    """
    run_dir, recipe, made_of = open_folder(path, DistillRun.kind)
    teachers = tuple(read_teacher(Path(folder)) for folder in made_of["teachers"])
    return DistillRun(recipe, run_dir, find_base(recipe, base_folder), teachers=teachers)
