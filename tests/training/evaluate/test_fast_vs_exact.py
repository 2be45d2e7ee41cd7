"""`mavis compare` around a fake engine: which arms it samples, that it goes on where it was, what it writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.conftest import TINY_PROBE
from tests.training.kit import FakeEngine
from training.evaluate import fast_vs_exact as compare
from training.rollouts.engine import Reply
from training.rollouts.requests import Request
from valuemodels.contract.value_config import CONFIG_FILE, ObjectiveConfig, ValueConfig

NAMES = ("positivity", "simplicity")


class TwoWays(FakeEngine):
    """Exact tilts make warm replies for 5 nats, fast ones nearly as warm for 4 nats times the square of beta."""

    def reply(self, request: Request) -> Reply:
        asked = request.guidance
        word, kl_nats = "plain", 0.0
        if asked is not None and "positivity" in asked.weights:
            word, kl_nats = ("wonderful", 5.0) if asked.scoring == "exact" else ("nice", 4.0 * (asked.beta or 1) ** 2)
        elif asked is not None:
            word, kl_nats = "good", 5.0
        text = f"The bread was {word} on day {request.seed % 97}."
        return Reply(request.prompt_id, request.prompt_token_ids, request.sample, (1,) * 8, text, "stop", kl_nats)


@pytest.fixture
def values(tiny_config: Callable[..., ValueConfig], tmp_path: Path) -> Path:
    objectives = tuple(
        ObjectiveConfig(name=name, description=name, reward=name, mean=0.0, std=0.25, scale=1.0) for name in NAMES
    )
    folder = tmp_path / "values"
    folder.mkdir()
    config = tiny_config(
        objectives=objectives,
        probe=TINY_PROBE.model_copy(update={"scales": dict.fromkeys(NAMES, 1.0)}),
        training={"recipe": "embedded", "iteration": 0, "data_hash": "none"},
    )
    (folder / CONFIG_FILE).write_text(config.model_dump_json())
    return folder


@pytest.fixture
def call(values: Path, chat_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr("training.evaluate.checkpoint.RolloutEngine", TwoWays)

    def invoke(*arguments: str) -> Result:
        fixed = ["--values", str(values), "--base-folder", chat_base, "--limit", "10", "--samples", "6"]
        return CliRunner().invoke(compare.app, [*fixed, "--run-dir", str(tmp_path / "run"), *arguments])

    return invoke


def test_every_setting_is_sampled_both_ways_at_equal_cost(call: Callable[..., Result], tmp_path: Path) -> None:
    result = call("--out", str(tmp_path / "compare.json"))
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "compare.json").read_text())
    assert [row["setting"]["weights"] for row in report["rows"]] == [
        {"positivity": 1.0},
        {"simplicity": 1.0},
        {"positivity": 0.5, "simplicity": 0.5},
    ]
    warm = report["rows"][0]
    assert warm["kl_nats"]["value"] == pytest.approx(5.0)
    assert [(each["beta"], each["kl_nats"]) for each in warm["strengths"]] == [
        (0.8, pytest.approx(4.0 * 0.8**2)), (1.25, pytest.approx(4.0 * 1.25**2)),
    ]  # fmt: skip
    assert 0.3 < warm["ratio"]["value"] < 0.95


def test_a_third_strength_is_sampled_where_two_do_not_enclose_exacts_cost(
    call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "FAST_BETAS", (0.5, 0.6))
    assert call("--out", str(tmp_path / "compare.json")).exit_code == 0
    strengths = json.loads((tmp_path / "compare.json").read_text())["rows"][0]["strengths"]
    assert len(strengths) == 3 and strengths[2]["kl_nats"] > 5.0


def test_a_ratio_that_is_too_low_fails_the_command(call: Callable[..., Result], tmp_path: Path) -> None:
    assert call("--at-least", "0.1").exit_code == 0
    result = call("--at-least", "0.95", "--out", str(tmp_path / "compare.json"))
    assert result.exit_code == 2 and "fast over exact is not surely 0.95 or more for positivity +1" in result.output
    assert (tmp_path / "compare.json").is_file(), "the figures are there all the same"


def test_prompts_of_ones_own_can_be_given(call: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "What is bread?"}\n{"prompt": "What is love?"}\n')
    assert call("--prompts", str(path)).exit_code == 0
    assert len({request.prompt_id for request in TwoWays.asked}) == 2


def test_arms_share_prompts_and_seeds(call: Callable[..., Result]) -> None:
    assert call().exit_code == 0
    seeds: dict[tuple[str, int], set[int]] = {}
    for request in TwoWays.asked:
        seeds.setdefault((request.prompt_id, request.sample), set()).add(request.seed)
    assert len(seeds) == 60 and all(len(shared) == 1 for shared in seeds.values())
    ids = [request.guidance.generation_id for request in TwoWays.asked if request.guidance]
    assert len(ids) == len(set(ids)) >= 3 * 10 * (6 + 2 * 6)


def test_what_was_sampled_before_is_not_sampled_again(call: Callable[..., Result], tmp_path: Path) -> None:
    assert call().exit_code == 0
    asked = len(TwoWays.asked)
    (tmp_path / "run" / "base" / "shard_0000.parquet").unlink()
    TwoWays.asked.clear()
    assert call().exit_code == 0
    assert len(TwoWays.asked) == 10 * 6 < asked, "the base's only shard"


def test_other_settings_refuse_to_mix(call: Callable[..., Result]) -> None:
    assert call().exit_code == 0
    result = call("--max-tokens", "8")
    assert result.exit_code == 2 and "was made with max_tokens = 64, but it is 8 now" in result.output


def test_a_checkpoint_with_one_way_of_scoring_says_so(call: Callable[..., Result], values: Any) -> None:
    config = json.loads((values / CONFIG_FILE).read_text())
    (values / CONFIG_FILE).write_text(json.dumps({**config, "probe": None}))
    result = call()
    assert result.exit_code == 2 and "offers exact scoring alone: there is nothing to compare" in result.output
