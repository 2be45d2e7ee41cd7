"""The best-liked replies come from the strongest tilt towards an objective alone, best first."""

import numpy as np
import pytest

from training.evaluate.gaming import best_replies, print_best
from training.evaluate.slider_table import SliderSetting
from training.rollouts.scored import Scored
from training.rollouts.shards import Rollout

TEXTS = {"p0": "first [prompt]", "p1": "second"}


def scored(name: str, rewards: list[list[float]]) -> Scored:
    """Two prompts with two replies each, named by setting, prompt and sample."""
    replies = [
        Rollout(f"p{prompt}", "test", sample, (1,), (1,), f"{name} {prompt} {sample}", "stop", 0.0)
        for prompt in range(2)
        for sample in range(2)
    ]
    return Scored(replies, np.zeros((2, 2)), {"warmth": np.array(rewards), "brevity": -np.array(rewards)})


SETTINGS = [
    SliderSetting({"warmth": 0.0, "brevity": 0.0}),
    SliderSetting({"warmth": 0.5, "brevity": 0.0}),
    SliderSetting({"warmth": 1.0, "brevity": 0.0}),
    SliderSetting({"warmth": 2.0, "brevity": 1.0}),
    SliderSetting({"warmth": 0.0, "brevity": -1.0}),
]
SCORED = [scored(f"s{n}", [[1.0, 4.0], [3.0, 2.0 + n]]) for n in range(len(SETTINGS))]


def test_they_are_the_best_of_the_strongest_setting_that_tilts_towards_nothing_else() -> None:
    found = best_replies(SETTINGS, SCORED, TEXTS, ["warmth", "brevity"], 2)
    assert [(each.objective, each.reply, each.reward) for each in found] == [
        ("warmth", "s2 0 1", 4.0),
        ("warmth", "s2 1 1", 4.0),
    ], "brevity has no setting that tilts towards it"
    assert found[0].setting == "warmth +1" and found[0].prompt == "first [prompt]"
    assert best_replies(SETTINGS, SCORED, TEXTS, ["warmth"], 0) == []


def test_they_are_printed_whole_and_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch a reply whose brackets are taken for markup."""
    print_best(best_replies(SETTINGS, SCORED, TEXTS, ["warmth"], 1))
    printed = capsys.readouterr().out
    assert "'first [prompt]'" in printed and "'s2 0 1'" in printed and "4.000" in printed
