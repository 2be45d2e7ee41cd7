"""Fitting, on a tiny model and a reward that can be learned."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.fit.checkpoint import value_tensors
from training.fit.dataset import Example, TrainingData, collate
from training.fit.held_out import held_out_metrics, predict
from training.fit.stage import last_whole_checkpoint, train_values, trainable_model
from training.fit.targets import PathTargets
from training.prompts.chat import SPLITS
from training.recipe import FitRecipe
from valuemodels.contract.value_config import AdapterConfig, ValueConfig
from valuemodels.models.checkpoint import load_value_model, save_checkpoint
from valuemodels.models.trunk import ValueModel

ADAPTER = AdapterConfig(rank=8, alpha=16.0, targets=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"))
RECIPE = FitRecipe(epochs=4, learning_rate=5e-3, batch_tokens=512)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """Replies whose rewards say how many of their tokens are low, and how many are multiples of three."""
    rng = random.Random(0)
    examples = {
        split: [_example(rng) for _ in range(count)] for split, count in zip(SPLITS, (400, 60, 60), strict=True)
    }
    return TrainingData(("warmth", "brevity"), examples)


@pytest.fixture
def config(tiny_config: Callable[..., ValueConfig]) -> ValueConfig:
    return tiny_config(backbone={"kind": "base", "layers": 2, "adapter": ADAPTER.model_dump()})


def test_held_out_error_falls_on_a_reward_that_can_be_learned(
    tiny_base: str, config: ValueConfig, data: TrainingData, tmp_path: Path
) -> None:
    model = _fresh(config, tiny_base)
    before = held_out_metrics(model, data, 512)
    train_values(model, data, RECIPE, seed=0, folder=tmp_path)
    after = held_out_metrics(model, data, 512)
    for name in data.objectives:
        assert after[name]["test_mse"] < 0.6 * before[name]["test_mse"]
        assert after[name]["test_explained_variance_at_end"] > 0.5


def test_saved_checkpoint_loads_and_gives_the_trainers_values(
    tiny_base: str, config: ValueConfig, data: TrainingData, tmp_path: Path
) -> None:
    model = _fresh(config, tiny_base)
    train_values(model, data, RECIPE.model_copy(update={"epochs": 1}), seed=0, folder=tmp_path / "trainer")
    save_checkpoint(tmp_path / "values", config, value_tensors(model))
    loaded = load_value_model(tmp_path / "values", tiny_base, dtype=torch.float32, device="cpu")
    batch = collate(data.examples["test"][:8])
    with torch.no_grad():
        expected, got = (m(batch["input_ids"], batch["attention_mask"]) for m in (model, loaded))
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(got[real], expected[real], atol=1e-5, rtol=0)


def test_repeated_fit_gives_the_same_weights(
    tiny_base: str, config: ValueConfig, data: TrainingData, tmp_path: Path
) -> None:
    fits = []
    for name in ("first", "second"):
        model = _fresh(config, tiny_base)
        train_values(model, data, RECIPE.model_copy(update={"epochs": 1}), seed=3, folder=tmp_path / name)
        fits.append(value_tensors(model))
    for name, tensor in fits[0].items():
        torch.testing.assert_close(fits[1][name], tensor, atol=1e-6, rtol=0)


def test_interrupted_fit_goes_on_and_ends_where_an_undisturbed_one_does(
    tiny_base: str, config: ValueConfig, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _fresh(config, tiny_base)
    recipe = RECIPE.model_copy(update={"epochs": 2})
    train_values(whole, data, recipe, seed=0, folder=tmp_path / "whole")

    class Interrupted(Exception): ...

    def interrupt_late(self: object, args: object, state: object, control: object, **_: object) -> None:
        if state.epoch > 1.2:  # type: ignore[attr-defined]
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr("training.fit.stage.ShowProgress.on_step_end", interrupt_late)
        with pytest.raises(Interrupted):
            train_values(_fresh(config, tiny_base), data, recipe, seed=0, folder=tmp_path / "cut")
    resumed = _fresh(config, tiny_base)
    train_values(resumed, data, recipe, seed=0, folder=tmp_path / "cut")
    for name, tensor in value_tensors(whole).items():
        torch.testing.assert_close(value_tensors(resumed)[name], tensor, atol=1e-5, rtol=0)


def test_a_trainers_checkpoint_that_was_cut_short_is_no_obstacle(tmp_path: Path) -> None:
    """The Trainer writes its state last: killed before that, every later start used to fail at that folder."""
    for step, state in ((4, "{}"), (8, '{"global_step": 8'), (12, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert last_whole_checkpoint(tmp_path / "none") is None


def test_values_of_the_backbone_alone_do_not_change(
    tiny_base: str, config: ValueConfig, data: TrainingData, tmp_path: Path
) -> None:
    model = _fresh(config, tiny_base)
    names = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    before = {name: dict(model.named_parameters())[name].clone() for name in names}
    train_values(model, data, RECIPE.model_copy(update={"epochs": 1}), seed=0, folder=tmp_path)
    assert all("lora" not in name and not name.startswith("head.") for name in names)
    assert all(torch.equal(before[name], dict(model.named_parameters())[name]) for name in names)


def test_positions_count_reply_tokens(tiny_base: str, config: ValueConfig) -> None:
    model = _fresh(config, tiny_base)
    example = Example(token_ids=(5, 6, 7, 8, 9), prompt_length=2, learned=_flat(4, (1.0, -1.0)))
    found = predict(model, [example], 512)
    assert found.reply_positions.tolist() == [0, 1, 2, 3]
    assert found.is_last.tolist() == [False, False, False, True]
    assert found.targets.tolist() == [[1.0, -1.0]] * 4


def _fresh(config: ValueConfig, base: str) -> ValueModel:
    torch.manual_seed(0)
    return trainable_model(ValueModel.build(config, base), config.trunk[0].adapter)


def _example(rng: random.Random) -> Example:
    prompt = [rng.randrange(2, 64) for _ in range(rng.randrange(3, 9))]
    low, thirds = rng.random(), rng.random()
    reply = [_token(rng, low, thirds) for _ in range(rng.randrange(4, 24))]
    shares = (sum(token < 20 for token in reply) / len(reply), sum(token % 3 == 0 for token in reply) / len(reply))
    learned = _flat(len(reply) + 1, (3 * (shares[0] - 0.5), 3 * (shares[1] - 0.5)))
    return Example(tuple(prompt + reply), len(prompt), learned)


def _flat(positions: int, rewards: tuple[float, float]) -> PathTargets:
    return PathTargets(torch.tensor([rewards]).expand(positions, 2), torch.ones(positions, dtype=torch.bool))


def _token(rng: random.Random, low: float, thirds: float) -> int:
    tokens = range(2, 20) if rng.random() < low else range(20, 64)
    is_third = rng.random() < thirds
    return rng.choice([token for token in tokens if (token % 3 == 0) == is_third])
