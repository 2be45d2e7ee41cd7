"""Rewards of one's own: named as module:Class, with parameters, found beside the command, and refused in words."""

from pathlib import Path

import pytest

from training.errors import RewardError
from training.recipe import ObjectiveRecipe
from training.rewards.reward import load_reward, reward_source

CODE = """
class Questions:
    def __init__(self, weight=1.0):
        self.weight = weight

    def __call__(self, prompts, replies):
        return [self.weight * reply.count("?") for reply in replies]


class Broken:
    def __init__(self):
        import no_such_package


class Silent:
    pass


def letters(prompts, replies, letter="a"):
    return [float(reply.count(letter)) for reply in replies]


NUMBER = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the folder in which the command runs, which Python would not look in by itself."""
    path = tmp_path / "rewards_of_mine.py"
    path.write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])
    monkeypatch.delitem(__import__("sys").modules, "rewards_of_mine", raising=False)
    return path


def objective(**fields: object) -> ObjectiveRecipe:
    return ObjectiveRecipe.model_validate({"name": "curiosity", "description": "Asks.", **fields})


def test_it_is_found_beside_the_command(module: Path) -> None:
    identifier = objective(reward="rewards_of_mine:Questions").reward_id
    assert identifier == "rewards_of_mine:Questions"
    assert load_reward(identifier)(["a"], ["What? Why?"]) == [2.0]
    assert reward_source(identifier) == module


def test_its_parameters_are_part_of_its_id() -> None:
    """A checkpoint keeps the id alone, and `mavis evaluate` must score as training did."""
    identifier = objective(reward="rewards_of_mine:Questions", reward_parameters={"weight": 0.5}).reward_id
    assert load_reward(identifier)(["a"], ["What? Why?"]) == [1.0]


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("rewards_of_mine:Answers", "cannot be imported"),
        ("nowhere_at_all:Reward", "cannot be imported"),
        (":Reward", "cannot be imported"),
        ("rewards_of_mine:Broken", "needs a package that is not installed"),
        ("rewards_of_mine:NUMBER", "allowed is a class or a function"),
        ('rewards_of_mine:letters {"lettre": "b"}', "cannot be made with parameters"),
        ("rewards_of_mine:Questions [1]", "they are no JSON object"),
        ("rewards_of_mine:Silent", "allowed is an object one can call"),
        ('rewards_of_mine:Questions {"wieght": 1}', "cannot be made with parameters"),
        ("rewards_of_mine:Questions {", "cannot be made with parameters"),
        ('positivity {"weight": 1}', "cannot be made with parameters"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(identifier: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        load_reward(identifier)


def test_a_function_is_a_reward_too() -> None:
    assert load_reward("rewards_of_mine:letters")(["p"], ["banana"]) == [3.0]
    assert load_reward('rewards_of_mine:letters {"letter": "n"}')(["p"], ["banana"]) == [2.0]
