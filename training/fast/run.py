"""The making of one probe: the recipe, the folder, the rounds and their stages, and a teacher where there is one.

Runs in any training process. Must not import torch or vllm.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from training.errors import RunDirError
from training.recipe import ObjectiveRecipe
from training.runs.base import find_base
from training.runs.fitted import FittedValues
from training.runs.inputs import pick, reward_inputs
from training.runs.opened import open_folder
from training.runs.run import VALUES_FOLDER, Run, StageInputs, StageName
from training.runs.run_dir import RunDir, content_hash
from training.runs.teacher import ID_SEPARATOR, Teacher, read_teacher
from valuemodels.contract.value_config import read_value_config


@dataclass(frozen=True, slots=True, kw_only=True)
class FastRun(Run):
    """A probe being made in a folder.

    Iteration 0 is fitted to replies of the base, each later one to those and to replies tilted by the probe before it.

    Attributes:
        teacher: who gets the probe, and whose exact values it begins with unless it looks ahead; None makes a probe
            alone, from rewards alone.
    """

    kind: ClassVar[str] = "fast"
    shared: ClassVar[tuple[StageName, ...]] = ("prompts", "invented", "replies")
    values_stage: ClassVar[StageName] = "probe"
    export_stage: ClassVar[StageName] = "probe_export"

    teacher: Teacher | None = None

    @property
    def made_of(self) -> dict[str, Any]:
        """See `Run.made_of`."""
        teacher = None if self.teacher is None else str(self.teacher.folder.absolute())
        return {"teacher": teacher, "cached": None if self.cached is None else str(self.cached.path.absolute())}

    def own_inputs(self) -> StageInputs:
        """See `Run.own_inputs`."""
        fast = self.recipe.fast
        sampling = {
            **pick(self.recipe, "seed", "engine"),
            **self.recipe.rollout.model_dump(include={"max_tokens", "temperature"}),
            **self.recipe.calibrate.model_dump(include={"candidates", "target_kl"}),
        }
        rewards: dict[str, Any] = {"prefix_every": fast.critic.prefix_every}
        fits: dict[str, Any] = fast.model_dump(
            mode="json", include={"source", "hidden", "rank", "distill", "critic", "advantages"}
        )
        for name, identifier in self.rewards.items():
            rewards[name] = reward_inputs(identifier)
        stages: StageInputs = {}
        if self.iteration == 0:
            stages["prompts"] = self.prompt_inputs()
            stages["invented"] = {**sampling, "invented_prompts": self.recipe.invented_prompts}
            stages["replies"] = fast.model_dump(
                mode="json", include={"samples", "held_out_samples", "shard_prompts", "hidden", "rank"}
            )
        else:
            stages["replies"] = {
                "samples": fast.rounds[self.iteration - 1],
                **fast.model_dump(mode="json", include={"tilts"}),
            }
        stages["reply_rewards"] = rewards
        if fast.lookahead is not None:
            stages["lookahead"] = fast.lookahead.model_dump(mode="json")
        if self.iteration == 0 and self.labeller is not None:
            stages["labels"] = {**fast.labels.model_dump(mode="json"), "teacher": self.labeller.digest}
        stages["probe"] = fits
        if self.iteration == self.last or self.is_judged:
            stages["probe_scales"] = pick(self.recipe, "calibrate")
        if self.is_judged:
            stages["judge"] = self.judge_inputs()
        if self.iteration == self.last:
            stages["probe_export"] = {"name": self.recipe.name}
        return stages

    @property
    def last(self) -> int:
        """Number of the last iteration."""
        return len(self.recipe.fast.rounds)

    def earlier_inputs(self) -> dict[str, Any]:
        """See `Run.earlier_inputs`."""
        if self.iteration == 0:
            return {}
        return {f"round {self.iteration - 1}": self.at(self.iteration - 1).stage("probe").inputs}

    @property
    def labeller(self) -> Teacher | None:
        """Whose exact values the probe begins with: the teacher's, unless it looks ahead."""
        return self.teacher if self.recipe.fast.lookahead is None else None

    @property
    def rewards(self) -> dict[str, str]:
        """Objective -> id of its reward, in the order of the values."""
        if self.teacher is not None:
            return {objective.name: objective.reward for objective in self.teacher.config.objectives}
        return {objective.name: objective.reward_id for objective in self.recipe.objectives}

    def base_rewards(self) -> dict[str, tuple[float, float]]:
        """See `Run.base_rewards`; a teacher says itself what they are."""
        if self.teacher is not None:
            return {objective.name: (objective.mean, objective.std) for objective in self.teacher.config.objectives}
        found = self.at(0).stage("reply_rewards").summary()["base"]
        return {name: (found[name]["mean"], found[name]["std"]) for name in self.rewards}

    @property
    def is_judged(self) -> bool:
        """See `Run.is_judged`; `iterations` are of value models."""
        return self.recipe.judge is not None

    def fitted(self) -> FittedValues:
        """See `Run.fitted`."""
        folder = self.finished("probe") / VALUES_FOLDER
        probe = read_value_config(folder).probe
        assert probe is not None, folder
        scales = self.stage("probe_scales").summary()["scales"]
        return FittedValues(folder, "fast", {name: scales[name] / probe.scales[name] for name in scales})

    @property
    def checkpoint_id(self) -> str:
        """The finished checkpoint's id: the teacher's or the recipe's name, and what was done to it."""
        begun = self.recipe.name if self.teacher is None else self.teacher.config.id
        return f"{begun}{ID_SEPARATOR}{content_hash(self.at(self.last).stage('probe_scales').inputs)[:8]}"


def open_fast_run(path: Path, base_folder: Path | None = None) -> FastRun:
    """The making of a probe in a folder, at its iteration 0.

    Args:
        base_folder: where its base model lies, if not where it is looked for.

    Raises:
        RunDirError, RecipeError: see `open_folder`.
        CheckpointError: its teacher is no longer there.
    """
    run_dir, recipe, made_of = open_folder(path, FastRun.kind)
    teacher = None if made_of["teacher"] is None else read_teacher(Path(made_of["teacher"]))
    cached = None if made_of["cached"] is None else RunDir(Path(made_of["cached"]))
    return FastRun(recipe, run_dir, find_base(recipe, base_folder), teacher=teacher, cached=cached)


def slider_run(replies_of: Path, objective: ObjectiveRecipe, run_dir: Path, base_folder: Path | None = None) -> FastRun:
    """The making of one more objective's probe, from the base's replies that another making has left.

    Raises:
        RunDirError: there are none.
    """
    made = open_fast_run(replies_of, base_folder)
    if objective.name in made.rewards:
        raise RunDirError(f"name: got {objective.name!r}, allowed is one that {replies_of} does not have already")
    # Rounds of tilted replies, and their judging, would sample; and what was made for a teacher is not for this one.
    changes = {
        "name": objective.name,
        "objectives": (objective,),
        "fast": made.recipe.fast.model_copy(update={"rounds": ()}),
        "judge": None,
    }
    recipe = made.recipe.model_copy(update=changes)
    return FastRun(recipe, RunDir(run_dir), made.base_folder, cached=made.run_dir)
