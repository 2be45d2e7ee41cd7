"""Several rewards as one: each in its own units, clipped and weighed, and all of them what a run depends on."""

from typing import Any

import pytest

from training.errors import RewardError
from training.recipe import reward_id
from training.rewards.reward import load_reward, reward_files, reward_source
from training.runs.inputs import reward_inputs

REPLIES = ["I love this wonderful day.", "I hate this awful photosynthesis."]
PROMPTS = ["p"] * len(REPLIES)


def combined(*parts: dict[str, Any]) -> str:
    return reward_id("combined", {"parts": list(parts)})


def test_it_is_the_weighted_sum_of_clipped_parts() -> None:
    warm, plain = load_reward("positivity")(PROMPTS, REPLIES), load_reward("simplicity")(PROMPTS, REPLIES)
    found = load_reward(
        combined({"reward": "positivity", "weight": -2, "clip": [-0.5, 0.5]}, {"reward": "simplicity"})
    )(PROMPTS, REPLIES)
    assert warm[0] > 0.5 and warm[1] < -0.5
    assert found == pytest.approx([-1.0 + plain[0], 1.0 + plain[1]])


def test_combinations_combine() -> None:
    inner = {"reward": "combined", "parameters": {"parts": [{"reward": "simplicity", "weight": 3.0}]}}
    plain = load_reward("simplicity")(PROMPTS, REPLIES)
    assert load_reward(combined(inner))(PROMPTS, REPLIES) == pytest.approx([3 * value for value in plain])


def test_a_run_depends_on_the_parts_code() -> None:
    identifier = combined(
        {"reward": "simplicity"}, {"reward": "combined", "parameters": {"parts": [{"reward": "endpoint"}]}}
    )
    files = reward_files(identifier)
    assert {path.name for path in files} == {"words.py", "combined.py", "endpoint.py"}
    assert len(reward_inputs(identifier)["depends_on"]) == len(files)
    assert "depends_on" not in reward_inputs("simplicity") and reward_source("simplicity").name == "words.py"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"parts": []}, r"combined: parts: got \[\], allowed is a list of one part or more"),
        ({"parts": [{"weight": 1}]}, r"combined\.parts\[0\]: got .* allowed are clip, parameters, reward, weight"),
        ({"parts": [{"reward": "simplicity", "wieght": 1}]}, r"combined\.parts\[0\]: got"),
        ({"parts": [{"reward": "simplicity"}, {"reward": "humour"}]}, "'humour' is unknown"),
        ({"parts": [{"reward": "simplicity", "weight": "2"}]}, r"parts\[0\]\.weight: got '2', allowed are finite"),
        ({"parts": [{"reward": "simplicity", "clip": [1, 0]}]}, r"clip: got \[1, 0\], allowed are two numbers"),
        ({"parts": [{"reward": "simplicity", "clip": [1]}]}, r"clip: got \[1\], allowed are two numbers"),
    ],
)
def test_what_is_no_combination_is_one_sentence(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        load_reward(reward_id("combined", parameters))


def test_a_part_that_scores_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.rewards.words.Simplicity.__call__", lambda *_: [1.0, float("nan")])
    with pytest.raises(RewardError, match=r"combined\.parts\[0\]' scored reply 1 nan"):
        load_reward(combined({"reward": "simplicity"}))(PROMPTS, REPLIES)


@pytest.mark.parametrize("parameters", [{"parts": 3}, {"parts": ["simplicity"]}, {}, {"parts": [{"weight": 1}]}])
def test_what_a_run_asks_of_no_combination_is_one_sentence_too(parameters: dict[str, Any]) -> None:
    """A run asks what a reward depends on before it makes one."""
    with pytest.raises(RewardError, match="'combined'"):
        reward_inputs(reward_id("combined", parameters))
