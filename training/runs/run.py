"""One training run: its recipe, its folder, its stages in order, and what each of them depends on.

Runs in any training process. Must not import torch or vllm.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from training.errors import RunDirError
from training.prompts_recipe import DatasetRecipe
from training.recipe import Recipe
from training.recipe_file import parse_recipe
from training.rewards.reward import check_reward, reward_files
from training.runs.fitted import FittedValues
from training.runs.run_dir import RunDir, Stage, dataset_hash, file_hash, folder_hash, read_json, write_json
from valuemodels.sources.embedded import EMBEDDED, prepare_embedded_base
from valuemodels.sources.hub import resolve_folder

VALUES_FOLDER = "values"
"""The fitted checkpoint's folder in the fit stage's; its scales are all 1."""

CHECKPOINT_FOLDER = "checkpoint"
"""The finished checkpoint's folder in the export stage's."""

TrainingStage = Literal["prompts", "rollouts", "rewards", "fit", "calibrate", "judge", "export"]
FastStage = Literal[
    "prompts", "invented", "replies", "reply_rewards", "labels", "probe", "probe_scales", "judge", "probe_export"
]
StageName = TrainingStage | FastStage
StageInputs = dict[StageName, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """A recipe being carried out in a folder.

    Attributes:
        iteration: iteration 0 samples from the base, a later one through the guide, tilted by the best one before.
        base_folder: where the base model lies on this machine.
        workers: how many engines sample at once, over a Ray cluster; 0: one, in the stage's own process.
    """

    recipe: Recipe
    run_dir: RunDir
    base_folder: str
    iteration: int = 0
    workers: int = 0

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
        file = {} if judge.prompts is None else {"file": file_hash(Path(judge.prompts))}
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

    def fitted(self) -> FittedValues:
        """This iteration's values, with the scales that were found for them.

        Raises:
            RunDirError: they are not calibrated yet.
        """
        scales = self.stage("calibrate").summary()["scales"]
        return FittedValues(self.finished("fit") / VALUES_FOLDER, "exact", scales)

    @property
    def stages(self) -> tuple[StageName, ...]:
        """In the order in which they are carried out."""
        return tuple(self.own_inputs())

    def stage(self, name: StageName) -> Stage:
        """A stage's folder, with the settings that its result depends on: its own and those of the stages before.

        Raises:
            RunDirError: this run has no such stage.
        """
        own = self.own_inputs()
        stages = tuple(own)
        if name not in stages:
            raise RunDirError(f"stage: got {name!r}, allowed is one of {', '.join(stages)}")
        inputs: dict[str, Any] = {stage: own[stage] for stage in stages[: stages.index(name) + 1]}
        return self.run_dir.stage(self.iteration, name, {**self.earlier_inputs(), **inputs})

    def write(self) -> None:
        """Put what the stages' processes need where they read it.

        Raises:
            RunDirError: the folder holds the making of a probe.
        """
        if self.run_dir.teacher_path.is_file():
            raise RunDirError(f"{self.run_dir.path} holds the making of a probe: give another --run-dir")
        write_recipe(self.run_dir, self.recipe)

    def finished(self, name: StageName) -> Path:
        """The folder of a stage whose files are complete.

        Raises:
            RunDirError: it is not done, or was done with other settings.
        """
        stage = self.stage(name)
        stage.check()
        stage.summary()
        return stage.folder


def write_recipe(run_dir: RunDir, recipe: Recipe) -> None:
    """Put the recipe where the stages' processes read it."""
    run_dir.path.mkdir(parents=True, exist_ok=True)
    write_json(run_dir.recipe_path, recipe.model_dump(mode="json"))


def open_run(path: Path, base_folder: Path | None = None) -> Run:
    """The run in a folder.

    Args:
        base_folder: where its base model lies, if not where it is looked for.

    Raises:
        RunDirError: there is none.
        RecipeError: its recipe has been tampered with.
    """
    run_dir = RunDir(path)
    if not run_dir.recipe_path.is_file():
        raise RunDirError(f"{path} holds no training run: it has no {run_dir.recipe_path.name}")
    recipe = parse_recipe(read_json(run_dir.recipe_path), str(run_dir.recipe_path))
    return Run(recipe, run_dir, find_base(recipe, base_folder))


def find_base(recipe: Recipe, base_folder: Path | None = None) -> str:
    """The folder of a recipe's base model, which is converted or fetched first where that is still to be done."""
    if base_folder is not None:
        return str(base_folder)
    return look_up_base(recipe.base, recipe.base_revision)


def pick(recipe: Recipe, *keys: str) -> dict[str, Any]:
    """Some of a recipe's settings, as JSON content."""
    return recipe.model_dump(mode="json", include=set(keys))


def reward_inputs(identifier: str) -> dict[str, Any]:
    """What a reward's scores depend on: its id, its code, and the content of all else."""
    files = [folder_hash(path) if path.is_dir() else file_hash(path) for path in reward_files(identifier)]
    inputs = {"reward": identifier, "code": file_hash(check_reward(identifier))}
    return {**inputs, "depends_on": files} if files else inputs


def look_up_base(base: str, revision: str | None = None) -> str:
    """A folder with a base model's weights and tokenizer, which is converted or fetched first where it is not there.

    Args:
        base: "embedded", or a folder or hub id.
    """
    return str(prepare_embedded_base() if base == EMBEDDED else resolve_folder(base, revision))
