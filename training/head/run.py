"""The fitting of one more objective's head: the run that it lives on, the checkpoint that gets it, its stages.

Runs in any training process. Must not import torch or vllm.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from training.errors import RunDirError
from training.recipe import ObjectiveRecipe
from training.runs.base import find_base
from training.runs.inputs import pick, reward_inputs
from training.runs.opened import open_folder, open_run
from training.runs.run import Run, StageInputs, StageName
from training.runs.run_dir import RunDir, content_hash
from training.runs.teacher import ID_SEPARATOR, Teacher, read_teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRun(Run):
    """One more head being fitted on a trunk that stays as it is, and with it the values that it has already.

    Attributes:
        teacher: the checkpoint with that trunk.
        cached: the training run that made it, whose prompts and replies of the base are used.
    """

    kind: ClassVar[str] = "head"
    values_stage: ClassVar[StageName] = "head"
    export_stage: ClassVar[StageName] = "slider_export"

    teacher: Teacher

    @property
    def made_of(self) -> dict[str, Any]:
        """See `Run.made_of`."""
        assert self.cached is not None
        return {"run": str(self.cached.path.absolute())}

    def own_inputs(self) -> StageInputs:
        """See `Run.own_inputs`."""
        rewards = {name: reward_inputs(identifier) for name, identifier in self.rewards.items()}
        return {
            "prompts": self.prompt_inputs(),
            "rollouts": pick(self.recipe, "seed", "engine", "rollout"),
            "rewards": rewards,
            "head": {"checkpoint": self.teacher.digest, **pick(self.recipe, "head", "fit")},
            "calibrate": pick(self.recipe, "calibrate"),
            "slider_export": {objective.name: objective.description for objective in self.recipe.objectives},
        }

    @property
    def checkpoint_id(self) -> str:
        """The finished checkpoint's id: that of the one it was, and what was added to it."""
        return f"{self.teacher.config.id}{ID_SEPARATOR}{content_hash(self.stage('calibrate').inputs)[:8]}"


def head_run(replies_of: Path, objective: ObjectiveRecipe, run_dir: Path, base_folder: Path | None = None) -> HeadRun:
    """The fitting of one more objective's head on the trunk that a training run has made.

    Raises:
        RunDirError: that run is not through, or has the objective already.
    """
    made = open_run(replies_of, base_folder)
    if objective.name in made.rewards:
        raise RunDirError(f"name: got {objective.name!r}, allowed is one that {replies_of} does not have already")
    # Later rounds, and their judging, would sample.
    recipe = made.recipe.model_copy(update={"objectives": (objective,), "iterations": 1, "judge": None})
    teacher = read_teacher(made.checkpoint)
    return HeadRun(recipe, RunDir(run_dir), made.base_folder, cached=made.run_dir, teacher=teacher)


def open_head_run(path: Path, base_folder: Path | None = None) -> HeadRun:
    """The fitting of a head in a folder.

    Raises:
        RunDirError, RecipeError: see `open_folder`.
    """
    run_dir, recipe, made_of = open_folder(path, HeadRun.kind)
    made = open_run(Path(made_of["run"]), base_folder)
    teacher = read_teacher(made.checkpoint)
    return HeadRun(recipe, run_dir, find_base(recipe, base_folder), cached=made.run_dir, teacher=teacher)
