"""The making of one probe: the recipe, the folder, the rounds and their stages, and a teacher where there is one.

Runs in any training process. Must not import torch or vllm.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, deserialize

from training.errors import RunDirError
from training.recipe import ObjectiveRecipe, Recipe
from training.recipe_file import parse_recipe
from training.runs.fitted import FittedValues
from training.runs.run import (
    VALUES_FOLDER,
    FastStage,
    Run,
    StageInputs,
    StageName,
    find_base,
    pick,
    reward_inputs,
    write_recipe,
)
from training.runs.run_dir import RunDir, Stage, content_hash, read_json, write_json
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.value_config import TENSORS_FILE, ValueConfig, read_value_config

_ID_SEPARATOR = "+"

_CACHED: tuple[FastStage, ...] = ("prompts", "invented", "replies")
"""The stages of the first round that depend on no reward."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """The checkpoint that gets a probe, first distilled from its exact values; one that it has already does not count.

    Attributes:
        config: without a probe, and with the id that the checkpoint had before it got one.
        had_probe: it has a probe, which the new one replaces.
        digest: hash of `config` and of the exact tensors.
    """

    folder: Path
    config: ValueConfig
    had_probe: bool
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FastRun(Run):
    """A probe being made in a folder.

    Iteration 0 is fitted to replies of the base, each later one to those and to replies tilted by the probe before it.

    Attributes:
        teacher: None makes a checkpoint that is a probe alone, from rewards alone.
        cached: another making of a probe, whose prompts and replies of the base are used; None: it makes its own.
    """

    teacher: Teacher | None = None
    cached: RunDir | None = None

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
        if self.iteration == 0 and self.teacher is not None:
            stages["labels"] = {**fast.labels.model_dump(mode="json"), "teacher": self.teacher.digest}
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

    def stage(self, name: StageName) -> Stage:
        """See `Run.stage`.

        Raises:
            RunDirError: this run has no such stage, or lives on replies that are not there or were made otherwise.
        """
        own = super(FastRun, self).stage(name)
        if self.cached is None or self.iteration or name not in _CACHED:
            return own
        borrowed = self.cached.stage(0, name, own.inputs)
        borrowed.check()
        borrowed.summary()
        return borrowed

    def earlier_inputs(self) -> dict[str, Any]:
        """See `Run.earlier_inputs`."""
        if self.iteration == 0:
            return {}
        return {f"round {self.iteration - 1}": self.at(self.iteration - 1).stage("probe").inputs}

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

    def write(self) -> None:
        """See `Run.write`.

        Raises:
            RunDirError: the folder holds a training run.
        """
        run_dir = self.run_dir
        if run_dir.recipe_path.is_file() and not run_dir.teacher_path.is_file():
            raise RunDirError(f"{run_dir.path} holds a training run, not the making of a probe: give another --run-dir")
        run_dir.path.mkdir(parents=True, exist_ok=True)
        folder = None if self.teacher is None else str(self.teacher.folder.absolute())
        cached = None if self.cached is None else str(self.cached.path.absolute())
        write_json(run_dir.teacher_path, {"folder": folder, "cached": cached})
        write_recipe(run_dir, self.recipe)

    @property
    def checkpoint_id(self) -> str:
        """The finished checkpoint's id: the teacher's or the recipe's name, and what was done to it."""
        begun = self.recipe.name if self.teacher is None else self.teacher.config.id
        return f"{begun}{_ID_SEPARATOR}{content_hash(self.at(self.last).stage('probe_scales').inputs)[:8]}"


def read_teacher(folder: Path) -> Teacher:
    """The checkpoint in a folder, as a teacher.

    Raises:
        CheckpointError: it is missing or broken, or has no exact values to give.
    """
    config = read_value_config(folder)
    _ = config.trunk
    had_probe = config.probe is not None
    exact_id = config.id.split(_ID_SEPARATOR)[0] if had_probe else config.id
    config = config.model_copy(update={"probe": None, "id": exact_id})
    described = config.model_dump(mode="json", exclude={"format_version"})
    return Teacher(folder, config, had_probe, content_hash([described, _hash_of_exact_tensors(folder / TENSORS_FILE)]))


def open_fast_run(path: Path, base_folder: Path | None = None) -> FastRun:
    """The making of a probe in a folder, at its iteration 0.

    Args:
        base_folder: where its base model lies, if not where it is looked for.

    Raises:
        RunDirError: there is none.
        RecipeError, CheckpointError: its recipe has been tampered with, its teacher is no longer there.
    """
    run_dir = RunDir(path)
    if not run_dir.teacher_path.is_file():
        raise RunDirError(f"{path} does not hold the making of a probe: it has no {run_dir.teacher_path.name}")
    recipe: Recipe = parse_recipe(read_json(run_dir.recipe_path), str(run_dir.recipe_path))
    found = read_json(run_dir.teacher_path)
    teacher = None if found["folder"] is None else read_teacher(Path(found["folder"]))
    cached = None if found.get("cached") is None else RunDir(Path(found["cached"]))
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


def _hash_of_exact_tensors(path: Path) -> str:
    """The same whatever else the file holds, and in whatever order."""
    try:
        tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing or not a safetensors file: {error}") from None
    exact = {name: tensor for name, tensor in tensors if not name.startswith("probe.")}
    digest = hashlib.sha256()
    for name, tensor in sorted(exact.items()):
        digest.update(f"{name} {tensor['dtype']} {tensor['shape']} ".encode())
        digest.update(tensor["data"])
    return digest.hexdigest()
