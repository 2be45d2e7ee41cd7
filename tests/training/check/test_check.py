"""`mavis train check`: what is wrong is named, all of it, and nothing is fetched or loaded for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from training.check.check import check_recipe
from training.check.estimate import estimate
from training.check.machine import Machine
from training.check.sizes import Sizes, sizes_of
from training.cli import app
from training.recipe import Recipe
from training.recipe_file import read_recipe
from training.rounds_recipe import JudgeRecipe, RoundsRecipe

CONFIG = {"layers": 1, "adapter": {"rank": 4, "alpha": 8, "targets": ["q_proj", "up_proj"]}}


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    found: dict[str, Any] = read_recipe("embedded").model_dump(mode="json")
    found["backbone"] |= CONFIG
    return found


@pytest.fixture
def call(content: dict[str, Any], chat_base: str, tmp_path: Path) -> Callable[..., Result]:
    def invoke(*options: str, **changes: Any) -> Result:
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        options = options or ("--base-folder", chat_base)
        return CliRunner().invoke(app, ["check", str(path), "--run-dir", str(tmp_path / "run"), *options])

    return invoke


def test_a_recipe_that_holds_is_told_with_its_time_memory_and_disk(call: Callable[..., Result]) -> None:
    result = call()
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    for word in (
        "ok base",
        "ok prompts",
        "ok longest prompt",
        "positivity",
        "rollouts",
        "calibrate",
        "GFLOP/s",
        "disk",
    ):
        assert word in said, (word, said)
    assert "wrong" not in said


def test_everything_that_is_wrong_is_named_at_once(call: Callable[..., Result]) -> None:
    objectives = [
        {"name": "a", "description": "a", "reward": "nothing"},
        {"name": "b", "description": "b", "reward": "classifier", "reward_parameters": {"modell": "x/y"}},
    ]
    result = call(objectives=objectives, prompts="no-such-file.jsonl")
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "prompt file no-such-file.jsonl does not exist" in said
    assert "reward 'nothing' is unknown" in said and "modell" in said
    assert "3 of 4 things are wrong" in said and "Traceback" not in said


def test_a_base_that_is_not_here_is_neither_fetched_nor_estimated(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valuemodels.sources.hub.resolve_folder", lambda *_: pytest.fail("it was fetched"))
    objective = {"name": "a", "description": "a", "reward": "classifier", "reward_parameters": {"model": "some/reward"}}
    result = call("--limit", "5", base="some-owner/some-model", objectives=[objective])
    assert result.exit_code == 0, result.output
    assert "not on this machine yet" in result.output and "cannot be estimated" in result.output


def test_prompts_that_are_not_here_are_counted_by_what_the_recipe_says_of_them(call: Callable[..., Result]) -> None:
    """The base is here, so that there is something to estimate as soon as their number is known."""
    unknown = call(prompts={"dataset": "some-owner/some-prompts"})
    assert unknown.exit_code == 0, unknown.output
    assert "some-owner/some-prompts on the hub" in unknown.output and "cannot be estimated" in unknown.output
    known = call(prompts={"dataset": "some-owner/some-prompts", "at_most": 100})
    assert known.exit_code == 0, known.output
    assert "at most 70 train, 15 validation, 15 test" in " ".join(known.output.split()) and "GFLOP/s" in known.output


@pytest.mark.parametrize("name", ["hh", "summarize", "saferlhf"])
def test_the_papers_recipes_hold_and_nothing_is_fetched_to_say_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valuemodels.sources.hub.resolve_folder", lambda *_: pytest.fail("it was fetched"))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("it was fetched"))
    result = CliRunner().invoke(app, ["check", name, "--limit", "8"])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "a run fetches it; at most 8 train" in said and "wrong" not in said


def test_a_trunk_that_is_not_here_is_no_mistake(call: Callable[..., Result]) -> None:
    backbone = {"kind": "model", "model": "some-owner/some-trunk", "adapter": CONFIG["adapter"]}
    result = call(backbone=backbone)
    assert result.exit_code == 0, result.output
    assert "some-owner/some-trunk, not on this machine yet" in result.output and "cannot be estimated" in result.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone": {"kind": "base", "layers": 99, "adapter": CONFIG["adapter"]}},
            "the value model takes 99 layers of",
        ),
        (
            {"backbone": {"kind": "base", "layers": 1, "adapter": {"rank": 4, "alpha": 8, "targets": ["c_attn"]}}},
            "backbone.adapter.targets: got 'c_attn', allowed is down_proj",
        ),
        ({"rounds": {"below": [1] * 99}}, "rounds.below: 100 layers do not fit a reply of max_tokens 64"),
        ({"engine": {"max_model_len": 66}}, "engine.max_model_len: got 66, allowed is"),
        ({"iterations": 2, "judge": {"prompts": "no-such-file"}}, "no-such-file does not exist"),
        ({"split": {"train": 0.999, "validation": 0.0005, "test": 0.0005}}, "split is empty"),
    ],
)
def test_what_would_end_a_run_in_its_middle_is_said_before(
    call: Callable[..., Result], changes: dict[str, Any], message: str
) -> None:
    result = call(**changes)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()) and "Traceback" not in result.output


def test_sizes_are_those_of_the_models(chat_base: str, content: dict[str, Any]) -> None:
    from transformers import AutoModel

    recipe = Recipe.model_validate(content)
    found = sizes_of(Path(chat_base), Path(chat_base), recipe.backbone)
    model = AutoModel.from_pretrained(chat_base)
    assert found.base == sum(parameter.numel() for parameter in model.parameters())
    layer = model.layers[0]
    widths = [(m.in_features + m.out_features) for m in (layer.self_attn.q_proj, layer.mlp.up_proj)]
    assert found.adapter == 4 * sum(widths) and found.trunk + found.embeddings < found.base
    assert found.embeddings == model.get_input_embeddings().weight.numel()


MACHINE = Machine("test", 1e11, 2**40, 2**40)
PROMPTS = {"train": 100, "validation": 20, "test": 20}


def test_estimates_count_replies_and_grow_with_rounds(content: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(content)
    found = estimate(recipe, PROMPTS, Sizes(10**8, 10**7, 10**6, 10**5), MACHINE)
    assert [stage.name for stage in found.stages] == ["rollouts", "fit", "calibrate"]
    assert found.stages[0].work == f"{100 * 8 + 40 * 4} replies, {(100 * 8 + 40 * 4) * 64} tokens at most"
    later = recipe.changed(iterations=2, rounds=RoundsRecipe(samples=2), judge=JudgeRecipe(limit=10, samples=3))
    rounds = estimate(later, PROMPTS, Sizes(10**8, 10**7, 10**6, 10**5), MACHINE)
    assert [stage.name for stage in rounds.stages[:4]] == [
        "rollouts, round 0", "fit, round 0", "calibrate, round 0", "judge, round 0",
    ]  # fmt: skip
    assert rounds.stages[3].work == f"{(len(content['objectives']) + 1) * 10 * 3} tilted replies"
    assert rounds.stages[4].work.startswith(f"{100 * 2 + 40 * 4} replies")
    assert rounds.seconds > found.seconds and rounds.disk > found.disk


def test_what_trees_share_is_sampled_once(content: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(content)
    rollout = recipe.rollout.model_copy(update={"samples": 4, "below": (2,), "max_tokens": 60})
    prompts = {"train": 10, "validation": 0, "test": 0}
    found = estimate(recipe.changed(rollout=rollout), prompts, Sizes(1, 1, 1, 1), MACHINE)
    assert found.stages[0].work == f"{10 * 8} replies, {10 * (4 * 30 + 8 * 30)} tokens at most"


def test_too_little_memory_or_disk_is_refused(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.check.machine.this_machine", lambda _: Machine("small", 1e11, 2**20, 2**40))
    result = call()
    assert result.exit_code == 2 and "GiB of memory are needed, 0.0 are free" in " ".join(result.output.split())


def test_nothing_is_written(content: dict[str, Any], chat_base: str, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    checked = check_recipe(Recipe.model_validate(content), Path(chat_base))
    assert not checked.problems and set(tmp_path.rglob("*")) == before
