"""One distillation: an exact checkpoint, the recipe it is distilled by, the folder, and the stages.

Runs in any training process. Must not import torch or vllm.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, deserialize

from training.errors import RunDirError
from training.recipe import DistillRecipe, Recipe
from training.recipe_file import parse_recipe
from training.runs.run import Run, StageInputs, find_base, pick, write_recipe
from training.runs.run_dir import RunDir, content_hash, read_json, write_json
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.value_config import TENSORS_FILE, ValueConfig, read_value_config

_ID_SEPARATOR = "+"


@dataclass(frozen=True, slots=True)
class Teacher:
    """The checkpoint whose exact values are distilled; a probe that it has already does not count.

    Attributes:
        config: without a probe, and with the id that the checkpoint had before it got one.
        had_probe: it has a probe, which the distilled checkpoint replaces.
        digest: hash of `config` and of the exact tensors.
    """

    folder: Path
    config: ValueConfig
    had_probe: bool
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRun(Run):
    """A distillation being carried out in a folder."""

    teacher: Teacher

    def own_inputs(self) -> StageInputs:
        """See `Run.own_inputs`."""
        recipe = self.recipe
        sampling = ("samples", "held_out_samples", "max_weight", "candidates", "shard_prompts")
        return {
            "prompts": self.prompt_inputs(),
            "positions": {
                **pick(recipe, "seed", "engine"),
                **recipe.rollout.model_dump(include={"max_tokens", "temperature"}),
                **_pick_distill(recipe, *sampling),
                "teacher": self.teacher.digest,
            },
            "probe": _pick_distill(recipe, *(DistillRecipe.model_fields.keys() - sampling)),
            "probe_scales": pick(recipe, "calibrate"),
            "distilled": {},
        }

    def write(self) -> None:
        """See `Run.write`.

        Raises:
            RunDirError: the folder holds a training run.
        """
        run_dir = self.run_dir
        if run_dir.recipe_path.is_file() and not run_dir.teacher_path.is_file():
            raise RunDirError(f"{run_dir.path} holds a training run, not a distillation: give another --run-dir")
        run_dir.path.mkdir(parents=True, exist_ok=True)
        write_json(run_dir.teacher_path, {"folder": str(self.teacher.folder.absolute())})
        write_recipe(run_dir, self.recipe)

    @property
    def checkpoint_id(self) -> str:
        """The distilled checkpoint's id: the teacher's, and what was done to it."""
        return f"{self.teacher.config.id}{_ID_SEPARATOR}{content_hash(self.stage('probe_scales').inputs)[:8]}"


def read_teacher(folder: Path) -> Teacher:
    """The checkpoint in a folder, as a teacher.

    Raises:
        CheckpointError: it is missing or broken.
    """
    config = read_value_config(folder)
    had_probe = config.probe is not None
    exact_id = config.id.split(_ID_SEPARATOR)[0] if had_probe else config.id
    config = config.model_copy(update={"probe": None, "id": exact_id})
    described = config.model_dump(mode="json", exclude={"format_version"})
    return Teacher(folder, config, had_probe, content_hash([described, _hash_of_exact_tensors(folder / TENSORS_FILE)]))


def open_distillation(path: Path, base_folder: Path | None = None) -> DistillRun:
    """The distillation in a folder.

    Args:
        base_folder: where its base model lies, if not where it is looked for.

    Raises:
        RunDirError: there is none.
        RecipeError, CheckpointError: its recipe has been tampered with, its teacher is no longer there.
    """
    run_dir = RunDir(path)
    if not run_dir.teacher_path.is_file():
        raise RunDirError(f"{path} holds no distillation: it has no {run_dir.teacher_path.name}")
    recipe = parse_recipe(read_json(run_dir.recipe_path), str(run_dir.recipe_path))
    teacher = read_teacher(Path(read_json(run_dir.teacher_path)["folder"]))
    return DistillRun(recipe, run_dir, find_base(recipe, base_folder), teacher=teacher)


def _pick_distill(recipe: Recipe, *keys: str) -> dict[str, Any]:
    return recipe.distill.model_dump(mode="json", include=set(keys))


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
