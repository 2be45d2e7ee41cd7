"""`mavis evaluate` around a fake engine: what it samples, what it writes, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.training.kit import FakeEngine
from training.evaluate import sliders as evaluate
from training.prompts.datasets import load_prompts
from training.prompts.files import split
from training.recipe_file import read_recipe
from training.rollouts.engine import Reply
from training.rollouts.requests import Request
from valuemodels.contract.value_config import CONFIG_FILE, ObjectiveConfig, ValueConfig

WORDS = {"positivity": ("horrible", "sad", "plain", "nice", "wonderful")}


class WarmEngine(FakeEngine):
    """Replies with the warmer words the higher the weight."""

    def reply(self, request: Request) -> Reply:
        weight = request.guidance.weights.get("positivity", 0.0) if request.guidance else 0.0
        word = WORDS["positivity"][round(2 + 2 * weight)]
        text = f"The bread was {word} on day {request.seed % 97}."
        return Reply(request.prompt_id, request.prompt_token_ids, request.sample, (1,) * 8, text, "stop", weight**2)


@pytest.fixture
def values(tiny_config: Callable[..., ValueConfig], tmp_path: Path) -> Path:
    objectives = tuple(
        ObjectiveConfig(name=name, description=name, reward=name, mean=0.0, std=0.25, scale=1.0)
        for name in ("positivity", "simplicity")
    )
    folder = tmp_path / "values"
    folder.mkdir()
    config = tiny_config(objectives=objectives, training={"recipe": "embedded", "iteration": 0, "data_hash": "none"})
    (folder / CONFIG_FILE).write_text(config.model_dump_json())
    return folder


@pytest.fixture
def call(values: Path, chat_base: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr("training.evaluate.checkpoint.RolloutEngine", WarmEngine)

    def invoke(*arguments: str) -> Result:
        fixed = ["--values", str(values), "--base-folder", chat_base, "--limit", "5"]
        return CliRunner().invoke(evaluate.app, [*fixed, *arguments])

    return invoke


def test_table_and_json_have_every_setting(call: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "new" / "table.json"
    result = call("--out", str(out), "--samples", "2")
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert (report["prompts"], report["samples"]) == (5, 2)
    assert len(report["rows"]) == 1 + 2 * 4 + 1
    assert report["rows"][0]["setting"]["weights"] == {}
    warm = next(row for row in report["rows"] if row["setting"]["weights"] == {"positivity": 1.0})
    assert warm["kl_nats"]["value"] == 1.0
    assert warm["objectives"]["positivity"]["shift"]["low"] > 0.6
    assert not any("positivity" in failure for failure in report["not_monotone"])


def test_every_slider_has_a_line_and_other_rewards_a_say(call: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    result = call("--out", str(out), "--also", "helpfulness", "--also", "curiosity")
    assert result.exit_code == 2 and "reward 'curiosity' scored all 15 replies 0.0" in result.output.replace("\n", " ")
    assert len(WarmEngine.asked) == 15, "it is refused before anything but the base is sampled"
    result = call("--out", str(out), "--also", "helpfulness")
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    warm, plain = report["sliders"]
    assert warm["objective"] == "positivity" and plain["objective"] == "simplicity"
    assert set(warm["follows"]) == {"positivity", "simplicity", "helpfulness"}
    assert warm["follows"]["positivity"]["low"] > 0.9, "the fake engine's words get warmer from weight to weight"
    assert warm["gain"]["low"] > 0.6 and plain["gain"]["value"] == 0
    assert set(warm["effects"]) == set(warm["follows"]) and warm["effects"]["positivity"]["low"] > 0.6
    assert "helpfulness" in report["base_std"] and "helpfulness" in report["rows"][3]["objectives"]


def test_one_slider_is_tried_alone_and_scored_by_all_rewards(call: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "one.json"
    result = call("--out", str(out), "--objective", "positivity", "--run-dir", str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert [row["setting"]["weights"].keys() - {"positivity"} for row in report["rows"]] == [set()] * 5
    (warm,) = report["sliders"]
    assert warm["objective"] == "positivity" and set(warm["effects"]) == {"positivity", "simplicity"}
    assert [best["objective"] for best in report["best_replies"]] == ["positivity"] * 2
    WarmEngine.asked.clear()
    assert call("--run-dir", str(tmp_path / "run")).exit_code == 0
    assert len(WarmEngine.asked) == 15 * 5, "the other slider at four weights, and both together"


def test_settings_share_prompts_and_seeds(call: Callable[..., Result]) -> None:
    assert call("--weights", "-1,0,1").exit_code == 0
    seeds: dict[tuple[str, int], set[int]] = {}
    for request in WarmEngine.asked:
        seeds.setdefault((request.prompt_id, request.sample), set()).add(request.seed)
    assert len(seeds) == 15 and all(len(shared) == 1 for shared in seeds.values())
    ids = [request.guidance.generation_id for request in WarmEngine.asked if request.guidance]
    assert len(ids) == len(set(ids)) == 15 * 5


def test_prompts_that_training_saw_are_not_used(call: Callable[..., Result]) -> None:
    assert call("--samples", "1").exit_code == 0
    recipe = read_recipe("embedded")
    parts = split(load_prompts(recipe), recipe.split)
    assert {request.prompt_id for request in WarmEngine.asked} == {prompt.id for prompt in parts.test[:5]}


def test_any_prompt_file_will_do(call: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "Why?", "extra": 1}\n{"prompt": "How?"}\n')
    result = call("--prompts", str(path), "--samples", "1")
    assert result.exit_code == 0, result.output
    assert len({request.prompt_id for request in WarmEngine.asked}) == 2


def test_what_was_sampled_before_is_not_sampled_again(call: Callable[..., Result], tmp_path: Path) -> None:
    arguments = ("--samples", "1", "--run-dir", str(tmp_path / "run"))
    assert call(*arguments).exit_code == 0
    WarmEngine.asked.clear()
    assert call(*arguments).exit_code == 0
    assert WarmEngine.asked == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "1,x"), "weights: got '1,x', allowed is numbers"),
        (("--weights", "nan"), "weights: got 'nan', allowed is numbers"),
        (("--objective", "charm"), "objective: got 'charm', allowed is one of positivity, simplicity"),
        (("--also", "simplicity"), "also: got 'simplicity', allowed is a reward that is none of the checkpoint's"),
        (("--prompts", "no-such-file"), "prompt file no-such-file does not exist"),
    ],
)
def test_wrong_option_is_one_sentence(call: Callable[..., Result], arguments: tuple[str, ...], message: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output


def test_missing_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluate.app, ["--values", str(tmp_path)])
    assert result.exit_code == 2 and "value_config.json" in result.output.replace("\n", "")


def test_a_scoring_that_the_checkpoint_does_not_offer_is_refused(call: Callable[..., Result]) -> None:
    result = call("--scoring", "fast")
    assert result.exit_code == 2 and "scoring: got 'fast', allowed is one of exact" in result.output
