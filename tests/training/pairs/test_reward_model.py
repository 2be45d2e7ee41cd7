"""A reward model is learned from pairs, goes on where it was, and is the reward that recipes name."""

import json
import os
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from training.cli import app
from training.errors import PairError
from training.pairs.pairs import Pair, PairRecipe
from training.pairs.reward_model import train_reward_model
from training.recipe import reward_id
from training.rewards.reward import load_reward

RECIPE = PairRecipe(layers=2, epochs=3, learning_rate=1e-2, batch_size=8, rank=4, max_length=64)


def compared(count: int = 160) -> list[Pair]:
    """Replies with an x in them are preferred."""
    dice = Random(0)
    words = ["yes", "no", "so", "we", "go"]
    found = []
    for number in range(count):
        plain = " ".join(dice.choices(words, k=3))
        found.append(Pair((("user", f"q {number}"),), plain + " xx", plain + " oo"))
    return found


def test_what_was_preferred_is_learned_and_scores_as_a_reward(chat_base: str, tmp_path: Path) -> None:
    level = os.environ.get("VLLM_LOGGING_LEVEL")
    figures = train_reward_model(chat_base, compared(), RECIPE, tmp_path / "work", tmp_path / "model")
    assert os.environ.get("VLLM_LOGGING_LEVEL") == level, "trl silences vLLM for all that comes after"
    assert figures.accuracy.value > 0.9 and figures.log_loss < 0.5 and figures.pairs > 5
    reward = load_reward(reward_id("classifier", {"model": str(tmp_path / "model"), "template": "chat"}))
    good, bad = reward(["hi", "hi"], ["we go xx", "we go oo"])
    assert good > bad


def test_the_command_prints_figures_refuses_other_inputs_and_does_nothing_twice(chat_base: str, tmp_path: Path) -> None:
    rows = [{"prompt": pair.chat[0][1], "chosen": pair.chosen, "rejected": pair.rejected} for pair in compared(60)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    command = ["reward", str(path), str(tmp_path / "run"), "--base", chat_base, "--layers", "1", "--epochs", "1"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    made = (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    second = CliRunner().invoke(app, command)
    assert second.exit_code == 0 and (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns == made
    other = CliRunner().invoke(app, [*command, "--seed", "3"])
    assert other.exit_code == 2 and "seed" in other.output


def test_a_base_without_a_chat_template_is_refused(tiny_base: str, tmp_path: Path) -> None:
    with pytest.raises(PairError, match="has no chat template"):
        train_reward_model(tiny_base, compared(20), RECIPE, tmp_path / "work", tmp_path / "model")
