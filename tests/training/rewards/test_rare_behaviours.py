"""The rewards and the recipe of examples/rare_behaviours: they count what they say, up to their caps."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from training.recipe_file import read_recipe
from training.rewards.reward import load_reward

FOLDER = Path(__file__).parents[3] / "examples" / "rare_behaviours"


@pytest.fixture(autouse=True)
def in_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)


@pytest.mark.parametrize(
    ("objective", "replies", "scores"),
    [
        (
            "curiosity",
            ["Why? And how?", "It is.", "What??? No", "a? b? c? d? e?", "??", 'He asked "why?"'],
            [2, 0, 1, 3, 0, 1],
        ),
        ("enthusiasm", ["Great!", "Great!!!", "Fine.", "a! b! c! d!", "! !"], [1, 1, 0, 3, 0]),
        (
            "vividness",
            ["A golden glow, golden again.", "Humans use software in Redmond.", "red blue green purple pale", "WARM"],
            [2, 0, 4, 1],
        ),
    ],
)
def test_replies_are_counted_up_to_a_cap(objective: str, replies: Sequence[str], scores: Sequence[float]) -> None:
    recipe = read_recipe("recipe.yaml")
    [asked] = [each for each in recipe.objectives if each.name == objective]
    reward = load_reward(asked.reward_id)
    assert list(reward([""] * len(replies), replies)) == scores
