"""Two teachers with random values, and their distillation around a fake engine."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import random_tensors
from tests.training.kit import FakeEngine
from training.distill.run import DistillRun, distill_run
from training.recipe import Recipe
from training.recipe_file import read_recipe
from training.rollouts.engine import Reply
from training.rollouts.requests import Request
from training.stages import run_stage
from valuemodels.contract.value_config import ObjectiveConfig, ValueConfig
from valuemodels.models.checkpoint import save_checkpoint


class LettersEngine(FakeEngine):
    """Replies with tokens by the seed, five or six of them."""

    def reply(self, request: Request) -> Reply:
        tokens = tuple(5 + (request.seed >> shift) % 23 for shift in range(0, 20 + request.seed % 2 * 5, 4))
        kl_nats = 0.0 if request.guidance is None else 0.3 * (request.guidance.beta or 0.0) ** 1.8
        prompt = (request.prompt_id, request.prompt_token_ids, request.sample)
        return Reply(*prompt, tokens, " ".join(map(str, tokens)), "length", kl_nats, (0.0,) * len(tokens))


@pytest.fixture(scope="session")
def make_teacher(
    tiny_base: str, tiny_config: Callable[..., ValueConfig], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Writes an exact checkpoint of one objective with random values."""

    def make(name: str, seed: int, **changes: object) -> Path:
        folder = tmp_path_factory.mktemp("teachers") / name
        objective = ObjectiveConfig(
            name=name, description=f"Has {name}.", reward=name, mean=0.25, std=1.5, clip=(-3, 3), scale=3.0
        )
        config = tiny_config(id=name, objectives=(objective,), **changes)
        save_checkpoint(folder, config, random_tensors(config, tiny_base, seed))
        return folder

    return make


@pytest.fixture(scope="session")
def teachers(make_teacher: Callable[..., Path]) -> list[Path]:
    return [make_teacher("warmth", 1), make_teacher("brevity", 2)]


@pytest.fixture(scope="session")
def small() -> Recipe:
    recipe = read_recipe("embedded")
    return recipe.model_copy(
        update={
            "limit": 24,
            "rollout": recipe.rollout.model_copy(update={"shard_prompts": 16, "samples": 6, "held_out_samples": 2}),
            "backbone": recipe.backbone.model_copy(update={"layers": 2}),
            "fit": recipe.fit.model_copy(update={"epochs": 12, "learning_rate": 5e-3, "batch_tokens": 1024}),
        }
    )


@pytest.fixture(scope="session")
def distilled(
    small: Recipe, teachers: list[Path], chat_base: str, tmp_path_factory: pytest.TempPathFactory
) -> DistillRun:
    run = distill_run(small, teachers, tmp_path_factory.mktemp("distill") / "run", Path(chat_base))
    with pytest.MonkeyPatch.context() as patch:
        for stage in ("rollouts", "calibrate"):
            patch.setattr(f"training.{stage}.stage.RolloutEngine", LettersEngine)
        run.write()
        for name in run.stages:
            run_stage(run, name)
    return run
