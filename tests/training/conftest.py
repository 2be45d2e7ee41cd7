"""A base model's tokenizer with a chat template, for stages that render prompts; and a whole run of three rounds."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.training.fake_engines import RoundsEngine
from training.recipe import Recipe
from training.recipe_file import read_recipe
from training.rounds_recipe import JudgeRecipe, RoundsRecipe
from training.runs.run import Run
from training.runs.run_dir import RunDir
from training.stages import run_stage

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="session")
def chat_base(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """`tiny_base` with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "base"
    shutil.copytree(Path(tiny_base), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def rounds_recipe() -> Recipe:
    recipe = read_recipe("embedded")
    rollout = recipe.rollout.model_copy(update={"shard_prompts": 8, "samples": 3, "held_out_samples": 2})
    return recipe.model_copy(
        update={
            "limit": 10,
            "objectives": recipe.objectives[:2],
            "iterations": 3,
            "rollout": rollout,
            "backbone": recipe.backbone.model_copy(update={"layers": 1}),
            "fit": recipe.fit.model_copy(update={"epochs": 1, "zeta": 0.1}),
            "rounds": RoundsRecipe(samples=2),
            "judge": JudgeRecipe(limit=8, samples=2),
        }
    )


@pytest.fixture(scope="session")
def rounds(rounds_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory, chat_base: str) -> Run:
    """Three rounds, of which the second is the best."""
    RoundsEngine.guides = []
    run = Run(rounds_recipe, RunDir(tmp_path_factory.mktemp("rounds") / "run"), chat_base)
    with pytest.MonkeyPatch.context() as patch:
        for stage in ("rollouts", "calibrate", "judge"):
            patch.setattr(f"training.{stage}.stage.RolloutEngine", RoundsEngine)
        run.write()
        for iteration in run.iterations:
            for name in iteration.stages:
                run_stage(iteration, name)
    return run
