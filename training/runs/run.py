"""One training run: its recipe, its folder, its stages in order, and what each of them depends on.

Runs in any training process. Must not import torch or vllm.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from training.errors import RunDirError
from training.prompts_recipe import DatasetRecipe, find_prompts
from training.recipe import Recipe
from training.runs.fitted import FittedValues
from training.runs.inputs import pick, reward_inputs
from training.runs.run_dir import RunDir, Stage, content_hash, dataset_hash, file_hash, folder_hash

VALUES_FOLDER = "values"
"""The fitted checkpoint's folder in the fit stage's; its scales are all 1."""

CHECKPOINT_FOLDER = "checkpoint"
"""The finished checkpoint's folder in the export stage's."""

REWARDS_FILE = "rewards.parquet"
"""Every objective's reward of every reply, in the rewards stage's folder."""

TrainingStage = Literal["prompts", "rollouts", "rewards", "fit", "calibrate", "judge", "export"]
FastSampling = Literal["prompts", "invented", "replies", "reply_rewards"]
FastFitting = Literal["lookahead", "labels", "probe", "probe_scales", "judge", "probe_export"]
OtherStage = Literal["teacher_values", "student", "head", "slider_export"]
StageName = TrainingStage | FastSampling | FastFitting | OtherStage
StageInputs = dict[StageName, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """A recipe being carried out in a folder.

    Attributes:
        iteration: iteration 0 samples from the base, a later one through the guide, tilted by the best one before.
        base_folder: where the base model lies on this machine.
        workers: how many engines sample at once, over a Ray cluster; 0: one, in the stage's own process.
        cached: another run, whose `shared` stages are used instead of own ones; None: it makes all of its own.
        kind: what is made, by the word that the folder notes.
        shared: the stages of the first iteration that depend on no reward.
        values_stage: the stage that fits the values; export_stage: the one that leaves the finished checkpoint.
    """

    kind: ClassVar[str] = "training"
    shared: ClassVar[tuple[StageName, ...]] = ("prompts", "rollouts")
    values_stage: ClassVar[StageName] = "fit"
    export_stage: ClassVar[StageName] = "export"

    recipe: Recipe
    run_dir: RunDir
    base_folder: str
    iteration: int = 0
    workers: int = 0
    cached: RunDir | None = None

    @property
    def made_of(self) -> dict[str, Any]:
        """What a stage's process needs to know beside the recipe, as JSON content."""
        return {}

    def own_inputs(self) -> StageInputs:
        """The stages in their order, each with the settings that it adds to those of the stages before it."""
        recipe = self.recipe
        rewards = {objective.name: reward_inputs(objective.reward_id) for objective in recipe.objectives}
        stages: StageInputs = {}
        if self.iteration == 0:
            stages["prompts"] = self.prompt_inputs()
            stages["rollouts"] = pick(recipe, "seed", "engine", "rollout")
            stages["rewards"] = rewards
            stages["fit"] = pick(recipe, "backbone", "head", "fit")
        else:
            # All else is that of the first round, whose settings this one's include.
            rounds = recipe.rounds.model_dump(mode="json")
            stages["rollouts"] = {name: rounds[name] for name in ("samples", "below", "tilts")}
            stages["rewards"] = rewards
            stages["fit"] = {name: rounds[name] for name in ("epochs", "learning_rate")}
        stages["calibrate"] = pick(recipe, "calibrate")
        if self.is_judged:
            stages["judge"] = self.judge_inputs()
        if self.iteration == self.last:
            stages["export"] = {"name": recipe.name, **{o.name: o.description for o in recipe.objectives}}
        return stages

    def judge_inputs(self) -> dict[str, Any]:
        """What a round's judgement depends on beside its values."""
        judge = self.recipe.judging
        file = {} if judge.prompts is None else {"file": file_hash(find_prompts(judge.prompts))}
        return {**judge.model_dump(mode="json"), **file, "zeta": self.recipe.fit.zeta}

    def prompt_inputs(self) -> dict[str, Any]:
        """What the prompts, their split and their tokens depend on."""
        return {
            **pick(self.recipe, "base", "base_revision", "split", "limit"),
            **self.prompt_source(),
            "base_content": folder_hash(self.base_folder),
        }

    def prompt_source(self) -> dict[str, Any]:
        """Which prompts those are. Of the hub's dataset what the recipe says: it is read by one stage, once."""
        source, path = self.recipe.prompts, self.recipe.prompts_path
        if not isinstance(source, DatasetRecipe):
            return {"file": file_hash(path)}
        content = {"dataset_content": dataset_hash(path)} if path.is_dir() else {}
        return {"dataset": source.model_dump(mode="json"), **content}

    @property
    def last(self) -> int:
        """Number of the last iteration."""
        return self.recipe.iterations - 1

    @property
    def iterations(self) -> tuple[Self, ...]:
        """The iterations of the whole run, in their order."""
        return tuple(self.at(iteration) for iteration in range(self.last + 1))

    def at(self, iteration: int) -> Self:
        """The same run, in another iteration."""
        return replace(self, iteration=iteration)

    def earlier_inputs(self) -> dict[str, Any]:
        """What this iteration depends on beside its own stages."""
        if self.iteration == 0:
            return {}
        return {f"round {self.iteration - 1}": self.at(self.iteration - 1).stage("judge").inputs}

    @property
    def is_judged(self) -> bool:
        """Whether its iterations are judged."""
        return self.recipe.is_judged

    @property
    def best(self) -> Self:
        """The iteration that was judged best of all up to this one; this one where none are judged.

        Raises:
            RunDirError: this one is not judged yet.
        """
        return self.at(self.stage("judge").summary()["best"]) if self.is_judged else self

    @property
    def rewards(self) -> dict[str, str]:
        """Objective -> id of its reward, in the order of the values."""
        return {objective.name: objective.reward_id for objective in self.recipe.objectives}

    def base_rewards(self) -> dict[str, tuple[float, float]]:
        """Objective -> mean and standard deviation of the base's reward, in the reward's own units."""
        found = self.at(0).stage("rewards").summary()["base"]
        return {name: (found[name]["mean"], found[name]["std"]) for name in self.rewards}

    def clips(self) -> dict[str, tuple[float, float]]:
        """Objective -> what its standardised reward is clipped to before it is learned."""
        return dict.fromkeys(self.rewards, (-self.recipe.fit.clip, self.recipe.fit.clip))

    def data_hash(self) -> str:
        """A short hash of what the values are regressed on.

        Raises:
            RunDirError: it is not there yet.
        """
        return file_hash(self.stage("rewards").folder / REWARDS_FILE)

    def first_scales(self) -> dict[str, float]:
        """Objective -> the first scale that calibration tries."""
        if self.iteration:
            # The values of the round before, from which these were fitted, cost as much at about the same scales.
            return dict(self.at(self.iteration - 1).best.fitted().units)
        return dict.fromkeys(self.rewards, self.recipe.calibrate.start)

    def fitted(self) -> FittedValues:
        """This iteration's values, with the scales that were found for them.

        Raises:
            RunDirError: they are not calibrated yet.
        """
        scales = self.stage("calibrate").summary()["scales"]
        return FittedValues(self.finished(self.values_stage) / VALUES_FOLDER, "exact", scales)

    @property
    def checkpoint_id(self) -> str:
        """The finished checkpoint's id."""
        return f"{self.recipe.name}-{content_hash(self.stage('calibrate').inputs)[:8]}"

    def learns_from(self, split: str, sample: int) -> bool:
        """Whether values are fitted to a prompt's reply number `sample`, or measured on it."""
        replies = self.recipe.fit.replies
        return split != "train" or replies is None or sample < replies

    @property
    def stages(self) -> tuple[StageName, ...]:
        """In the order in which they are carried out."""
        return tuple(self.own_inputs())

    def stage(self, name: StageName) -> Stage:
        """A stage's folder, with the settings that its result depends on: its own and those of the stages before.

        Raises:
            RunDirError: this run has no such stage, or lives on stages that are not done or were done otherwise.
        """
        own = self.own_inputs()
        stages = tuple(own)
        if name not in stages:
            raise RunDirError(f"stage: got {name!r}, allowed is one of {', '.join(stages)}")
        inputs: dict[str, Any] = {stage: own[stage] for stage in stages[: stages.index(name) + 1]}
        if self.cached is None or self.iteration or name not in self.shared:
            return self.run_dir.stage(self.iteration, name, {**self.earlier_inputs(), **inputs})
        borrowed = self.cached.stage(0, name, inputs)
        borrowed.check()
        borrowed.summary()
        return borrowed

    def write(self) -> None:
        """Put what the stages' processes need where they read it.

        Raises:
            RunDirError: the folder holds a run of another kind.
        """
        self.run_dir.begin(self.kind, self.made_of, self.recipe.model_dump(mode="json"))

    @property
    def checkpoint(self) -> Path:
        """The finished checkpoint's folder.

        Raises:
            RunDirError: the run is not through.
        """
        return self.at(self.last).finished(self.export_stage) / CHECKPOINT_FOLDER

    def finished(self, name: StageName) -> Path:
        """The folder of a stage whose files are complete.

        Raises:
            RunDirError: it is not done, or was done with other settings.
        """
        stage = self.stage(name)
        stage.check()
        stage.summary()
        return stage.folder
