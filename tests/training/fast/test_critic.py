"""The critic: what it learns, and that it never judges a prompt that it was fitted to."""

import dataclasses

import torch

from tests.training.recorded import random_data
from training.fast import critic as module
from training.fast.critic import FOLDS, cross_fitted_values, fold_of
from training.fast.positions import PositionData
from training.fast_recipe import CriticRecipe

RECIPE = CriticRecipe(hidden=32, epochs=30, batch_size=64, learning_rate=3e-3)


def test_it_learns_what_the_prefix_has_earned_already() -> None:
    data = random_data(200, 4, held_out=40)
    data.prefix_rewards[:] = data.final_rewards[data.reply]
    values = cross_fitted_values(data, RECIPE, 4, seed=0)
    error = (values - data.final_rewards[data.reply]).square().mean()
    assert error < 0.1 * data.final_rewards.square().mean()


def test_no_position_is_judged_by_a_critic_that_saw_its_prompt(monkeypatch: object) -> None:
    """A critic that could learn replies by heart still explains nothing of prompts it has not seen."""
    data = random_data(60, 6)
    recipe = RECIPE.model_copy(update={"epochs": 120})
    values = cross_fitted_values(data, recipe, 6, seed=0)
    target = data.final_rewards[data.reply]
    learned = module.fit_critic(data, torch.arange(len(data)), recipe, 6, 0)
    with torch.no_grad():
        by_heart = learned(data, 6)
    assert (by_heart - target).square().mean() < 0.3 * target.square().mean()
    assert (values - target).square().mean() > 0.9 * target.square().mean()


def test_all_replies_to_a_prompt_are_in_one_fold() -> None:
    data = random_data(12, 2, held_out=4)
    keys = tuple((f"p{number // 2}", number % 2) for number in range(12))
    folds = fold_of(dataclasses.replace(data, keys=keys))
    assert torch.equal(folds[0:16].reshape(4, 4), folds[0:16:4][:, None].expand(4, 4))
    assert set(folds[:16].tolist()) == set(range(FOLDS)) and set(folds[16:].tolist()) == {-1}


def test_repeated_fits_agree() -> None:
    data: PositionData = random_data(20, 3)
    recipe = RECIPE.model_copy(update={"epochs": 2})
    first, second = (cross_fitted_values(data, recipe, 3, seed=4) for _ in range(2))
    torch.testing.assert_close(first, second)
