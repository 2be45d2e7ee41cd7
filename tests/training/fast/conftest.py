"""A probe being made around a fake engine: the tiny base, rewards that count letters."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import random_tensors
from tests.training.fake_engines import RecordingEngine
from training.calibrate import stage as calibrate
from training.fast import invented, replies
from training.fast.run import FastRun
from training.fast_recipe import FastRecipe, PickRecipe
from training.recipe import ObjectiveRecipe, Recipe
from training.recipe_file import read_recipe
from training.runs.run_dir import RunDir
from training.runs.teacher import Teacher, read_teacher
from training.stages import run_stage
from valuemodels.contract.value_config import ObjectiveConfig, ValueConfig
from valuemodels.models.checkpoint import save_checkpoint

REWARDS = {"warmth": {"wanted": "abcdefghijklmnop"}, "brevity": {"wanted": "ABCDEFGHIJKLMNOP"}}


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    """The shipped recipe, small enough for seconds, with the letters' rewards."""
    recipe = read_recipe("embedded")
    fast = FastRecipe.model_validate(
        {
            "hidden": 24, "rank": 8, "invented_prompts": 30, "samples": 4, "held_out_samples": 6, "rounds": (3,),
            "shard_prompts": 16, "labels": {"replies": 40, "positions": 0.5, "likeliest": 3, "others": 4},
            "distill": {"epochs": 2, "batch_size": 64}, "critic": {"batch_size": 64, "hidden": 32},
            "advantages": {"epochs": 6, "batch_size": 64, "learning_rate": 5e-3},
        }
    )  # fmt: skip
    objectives = tuple(
        ObjectiveRecipe(name=name, description=name, reward="tests.training.letters:Letters", reward_parameters=wanted)
        for name, wanted in REWARDS.items()
    )
    calibrate = recipe.calibrate.model_copy(update={"candidates": 12})
    changes = {"limit": 30, "fast": fast, "objectives": objectives, "calibrate": calibrate}
    return recipe.model_copy(update=changes)


@pytest.fixture(scope="session")
def teacher(
    tiny_base: str,
    tiny_config: Callable[..., ValueConfig],
    small_recipe: Recipe,
    tmp_path_factory: pytest.TempPathFactory,
) -> Teacher:
    """An exact checkpoint with random values, trained on the letters' rewards as far as its config knows."""
    objectives = tuple(
        ObjectiveConfig(name=o.name, description=o.name, reward=o.reward_id, mean=-0.3, std=1.5, scale=3.0)
        for o in small_recipe.objectives
    )
    folder = tmp_path_factory.mktemp("teacher") / "letters"
    config = tiny_config(id="letters", objectives=objectives)
    save_checkpoint(folder, config, random_tensors(config, tiny_base))
    return read_teacher(folder)


@pytest.fixture(autouse=True, scope="session")
def fake_engine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for stage in (invented, replies, calibrate):
            patch.setattr(stage, "RolloutEngine", RecordingEngine)
        yield


def carry_out(run: FastRun) -> FastRun:
    """Every stage of every round that is not done, in this process."""
    RecordingEngine.asked = []
    run.write()
    for iteration in run.iterations:
        for name in iteration.stages:
            if not iteration.stage(name).is_done:
                run_stage(iteration, name)
    return run


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, chat_base: str, small_recipe: Recipe, teacher: Teacher
) -> FastRun:
    """A run with a teacher that is through."""
    folder = RunDir(tmp_path_factory.mktemp("fast") / "run")
    return carry_out(FastRun(small_recipe, folder, chat_base, teacher=teacher))


@pytest.fixture(scope="session")
def looking(
    tmp_path_factory: pytest.TempPathFactory, chat_base: str, small_recipe: Recipe, teacher: Teacher
) -> FastRun:
    """A run that looks ahead and is through."""
    ahead = PickRecipe(positions=0.5, likeliest=3, others=4)
    recipe = small_recipe.model_copy(update={"fast": small_recipe.fast.model_copy(update={"lookahead": ahead})})
    folder = RunDir(tmp_path_factory.mktemp("looking") / "run")
    return carry_out(FastRun(recipe, folder, chat_base, teacher=teacher))


@pytest.fixture
def fresh(tmp_path: Path, chat_base: str, small_recipe: Recipe, teacher: Teacher) -> FastRun:
    """A run with a teacher of which nothing is done."""
    RecordingEngine.asked = []
    return FastRun(small_recipe, RunDir(tmp_path / "run"), chat_base, teacher=teacher)
