"""Experts among the methods of a front: small random adapters on a small base, and the fake engine for all else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM
from typer.testing import Result

from tests.training.front.conftest import report_of
from training.evaluate.mix import Mix
from training.experts import policy
from training.front.policies import Experts, mixed_experts

LEARNED = {
    "preferences": 616,
    "replies": 4928,
    "steps": 39.0,
    "shift": {"value": 1.25, "low": 1.0, "high": 1.5},
    "kl_nats": {"value": 8.0, "low": 7.5, "high": 8.5},
}


@pytest.fixture
def experts(chat_base: str, tmp_path: Path) -> Path:
    for seed, name in enumerate(("positivity", "simplicity", "positivity-0.75_simplicity-0.25")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(chat_base)
        lora = LoraConfig(
            task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False
        )
        get_peft_model(model, lora).save_pretrained(str(tmp_path / "experts" / name / "adapter"))
    (tmp_path / "experts" / "positivity" / "done.json").write_text(json.dumps(LEARNED))
    return tmp_path / "experts"


def test_experts_are_mixed_both_ways_and_measured_as_all_others(
    call: Callable[..., Result], experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--full", "--experts", str(experts), "--best-of", "", "--max-tokens", "6", "--points", "3")
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    report = report_of(tmp_path)
    assert report["experts"] == {"positivity": LEARNED}, "of the other nothing is known"
    told = (tmp_path / "out" / "report.md").read_text()
    assert "| positivity | 1.25 [1.00, 1.50] | 8.00 [7.50, 8.50] | 616 | 4928 | 39 |" in told
    (group,) = report["groups"]
    by_name = {each["method"]: each for each in group["methods"]}
    assert list(by_name) == ["base", "tilted, exact", "prompted", "rewarded soup", "MOD"]
    soup, mod = by_name["rewarded soup"], by_name["MOD"]
    assert (soup["passes"], mod["passes"]) == (1.0, 2.0)
    for each in (soup, mod):
        assert each["kl_nats"]["value"] > 0.01 and each["perplexity"] > 1 and 0 < each["tokens"] <= 6
    ends = [[each["points"][place]["kl_nats"] for place in (0, -1)] for each in (soup, mod)]
    assert ends[0] == ends[1], "one expert alone is the same either way"
    assert soup["points"][1]["kl_nats"] != mod["points"][1]["kl_nats"]
    monkeypatch.setattr(policy.MixedPolicy, "sample", None)
    assert call(*arguments).exit_code == 0, "nothing is sampled twice"


def test_every_expert_of_a_mix_reads_a_reply_where_distributions_are_mixed() -> None:
    soup, mod = mixed_experts(cast(Any, None), Experts("", {}))
    mixes = [Mix({"a": 1.0, "b": 0.0}), Mix({"a": 0.5, "b": 0.5}), Mix({"a": 0.2, "b": 0.2, "c": 0.6})]
    assert [soup.passes(mix) for mix in mixes] == [1.0, 1.0, 1.0]
    assert [mod.passes(mix) for mix in mixes] == [1.0, 2.0, 3.0]


def test_an_expert_that_is_not_there_is_named_with_the_command_that_makes_it(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    result = call("--full", "--experts", str(tmp_path / "none"))
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and "has none for positivity, simplicity; mavis train expert positivity" in said


def test_a_mix_alone_is_set_beside_the_expert_of_that_mix(
    call: Callable[..., Result], experts: Path, tmp_path: Path
) -> None:
    mix = ("--mix", "positivity=3,simplicity=1", "--pair", "positivity,simplicity", "--points", "2")
    result = call(*mix, "--experts", str(experts), "--best-of", "", "--max-tokens", "6")
    assert result.exit_code == 0, result.output
    pair, alone = report_of(tmp_path)["groups"]
    assert (len(pair["methods"]), len(alone["methods"])) == (5, 6)
    ideal = alone["methods"][-1]
    assert ideal["method"] == "expert of the mix" and ideal["passes"] == 1.0
    (point,) = ideal["points"]
    assert point["shares"] == {"positivity": 0.75, "simplicity": 0.25} and point["kl_nats"]["value"] > 0.01
    gain = sum(share * point["shifts"][name]["value"] for name, share in point["shares"].items())
    assert ideal["mip"]["value"] == pytest.approx(gain)
    soup = next(each for each in alone["methods"] if each["method"] == "rewarded soup")
    assert soup["points"][0]["kl_nats"] != point["kl_nats"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "## positivity and simplicity, at 0.75 and 0.25" in report and "Against expert of the mix," in report


def test_one_mix_is_drawn_where_there_is_no_pair(
    call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a plot without a name for any of its dots."""
    named: list[str] = []
    monkeypatch.setattr("matplotlib.figure.Figure.legend", lambda _, handles, labels, **rest: named.extend(labels))
    result = call("--mix", "positivity=1,simplicity=1", "--no-others", "--best-of", "2")
    assert result.exit_code == 0, result.output
    (group,) = report_of(tmp_path)["groups"]
    assert named == [each["method"] for each in group["methods"]]


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("positivity=1,simplicity=1", "0.50_simplicity-0.50; mavis train expert positivity=0.5,simplicity=0.5 --run"),
        ("positivity=1", "mix: got 'positivity=1', allowed is two or more of positivity, simplicity"),
    ],
)  # fmt: skip
def test_a_mix_that_cannot_be_had_is_one_sentence(
    call: Callable[..., Result], experts: Path, mix: str, message: str
) -> None:
    result = call("--mix", mix, "--experts", str(experts))
    assert result.exit_code == 2 and message in " ".join(result.output.split())
