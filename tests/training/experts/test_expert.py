"""`mavis train expert`: trl's fit of a small base to its own replies, around a fake engine for those."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from tests.training.kit import FakeEngine
from training.cli import app
from training.evaluate.mix import Mix
from training.experts.command import Aim
from training.experts.expert import ExpertRecipe, train_expert
from training.experts.policy import rewarded_soup
from training.experts.preferences import Preference
from training.rollouts.engine import Reply
from training.rollouts.requests import Request
from valuemodels.contract.value_config import CONFIG_FILE, ObjectiveConfig, ValueConfig

LENGTH = f"{__name__}:longer"
RECIPE = ExpertRecipe(rank=4, epochs=6, learning_rate=5e-3, batch_size=4)


def longer(prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
    """The opposite of brevity."""
    return [float(len(reply)) for reply in replies]


def gap(model: torch.nn.Module, row: Preference) -> float:
    """How much likelier the chosen reply is than the rejected one, in nats."""

    def logprob(reply: tuple[int, ...]) -> float:
        with torch.no_grad():
            logits = model(torch.tensor([[*row.prompt, *reply]])).logits[0]
        table = logits[len(row.prompt) - 1 : -1].log_softmax(-1)
        return float(table.gather(1, torch.tensor(reply)[:, None]).sum())

    return logprob(row.chosen) - logprob(row.rejected)


def test_an_expert_learns_what_is_preferred_and_the_base_stays_as_it_was(chat_base: str, tmp_path: Path) -> None:
    rows = [Preference((5, 6, 7 + n % 5), (20, 21 + n % 3, 22), (30, 31, 32 + n % 3)) for n in range(16)]
    figures = train_expert(chat_base, rows, RECIPE, tmp_path / "work", tmp_path / "expert")
    assert figures["steps"] == 24 and figures["accuracy"] > 0.9
    base = AutoModelForCausalLM.from_pretrained(chat_base).eval()
    expert = rewarded_soup(chat_base, {"it": tmp_path / "expert"}, {"it": 1.0})
    assert all(gap(expert, row) > gap(base, row) + 1 for row in rows)


def test_a_step_teaches_the_same_however_much_of_it_is_read_at_once(
    chat_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Preference((5, 6, 7 + n), (20, 21 + n, 22), (30, 31 + n)) for n in range(8)]
    gaps = []
    for at_once in (1, 4):
        monkeypatch.setattr("training.experts.expert.READ_AT_ONCE", at_once)
        folder = tmp_path / str(at_once)
        train_expert(chat_base, rows, replace(RECIPE, epochs=2), folder / "work", folder / "expert")
        expert = rewarded_soup(chat_base, {"it": folder / "expert"}, {"it": 1.0})
        gaps.append([gap(expert, row) for row in rows])
    base = AutoModelForCausalLM.from_pretrained(chat_base).eval()
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-3)
    assert gaps[0] != pytest.approx([gap(base, row) for row in rows], abs=0.05)


class ShortOrLong(FakeEngine):
    """Replies of one word or of five, by the seed."""

    def reply(self, request: Request) -> Reply:
        words = 1 if request.seed % 2 else 5
        tokens = tuple(6 + (request.seed >> shift) % 20 for shift in range(words))
        text = " ".join(["word"] * words) + "."
        return Reply(request.prompt_id, request.prompt_token_ids, request.sample, tokens, text, "length")


@pytest.fixture
def call(
    tiny_config: Callable[..., ValueConfig], chat_base: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Result]:
    monkeypatch.setattr("training.evaluate.checkpoint.RolloutEngine", ShortOrLong)
    monkeypatch.setattr("training.experts.command.in_own_process", lambda work, split: work(split))
    objectives = tuple(
        ObjectiveConfig(name=name, description=name, reward=reward, mean=-20.0, std=10.0, scale=1.0)
        for name, reward in (("brevity", "training.rewards.second:FewCharacters"), ("length", LENGTH))
    )
    folder = tmp_path / "values"
    folder.mkdir()
    config = tiny_config(objectives=objectives, training={"recipe": "embedded", "iteration": 0, "data_hash": "none"})
    (folder / CONFIG_FILE).write_text(config.model_dump_json())

    def invoke(objective: str, *arguments: str) -> Result:
        sizes = ["--limit", "6", "--samples", "4", "--pairs", "2", "--max-tokens", "8", "--rank", "4"]
        places = ["--values", str(folder), "--base-folder", chat_base, "--run-dir", str(tmp_path / "experts")]
        return CliRunner().invoke(app, ["expert", objective, *places, *sizes, *arguments])

    return invoke


def test_the_command_says_what_was_learned_and_does_nothing_twice(call: Callable[..., Result], tmp_path: Path) -> None:
    result = call("brevity")
    assert result.exit_code == 0, result.output
    assert "brevity: " in result.output and "nats a reply" in " ".join(result.output.split())
    folder = tmp_path / "experts" / "brevity"
    figures = json.loads((folder / "done.json").read_text())
    summary = figures.get("summary", figures)
    assert summary["replies"] == 6 * 4 and 0 < summary["preferences"] <= 6 * 2
    assert (folder / "adapter" / "adapter_config.json").is_file()
    ShortOrLong.asked = []
    again = call("brevity")
    assert again.exit_code == 0 and again.output.strip() in result.output
    assert ShortOrLong.asked == []


def test_an_objective_that_is_none_is_refused_by_name(call: Callable[..., Result]) -> None:
    result = call("humour")
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and "objective: got 'humour', allowed is one of brevity, length, or a mix" in said


def test_other_settings_need_another_folder(call: Callable[..., Result]) -> None:
    assert call("brevity").exit_code == 0
    result = call("brevity", "--beta", "0.2")
    assert result.exit_code == 2 and "was made with beta = 0.1, but it is 0.2 now" in " ".join(result.output.split())


def test_an_expert_of_a_mix_has_a_folder_of_its_own_and_learns_of_all_its_rewards(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    """Three parts of brevity outweigh one of its opposite, in the base's standard deviations."""
    result = call("brevity=3,length=1")
    assert result.exit_code == 0, result.output
    assert "brevity 0.75, length 0.25: " in " ".join(result.output.split())
    folder = tmp_path / "experts" / "brevity-0.75_length-0.25"
    assert (folder / "adapter" / "adapter_config.json").is_file()
    assert json.loads((folder / "done.json").read_text())["preferences"] > 0
    even = call("brevity=1,length=1")
    said = " ".join(even.output.split())
    assert even.exit_code == 2 and "whose reward tells no two replies to one prompt apart" in said


def test_a_mixs_scores_are_in_standard_deviations_of_the_base() -> None:
    rewards = {"brevity": "training.rewards.second:FewCharacters", "length": LENGTH}
    aim = Aim(Mix({"brevity": 0.75, "length": 0.25}), rewards, {"brevity": 10.0, "length": 5.0})
    few, many = aim.scores(["?", "?"], ["word", "words and words"])
    assert few - many == pytest.approx((0.75 / 10 - 0.25 / 5) * (len("words and words") - len("word")))
