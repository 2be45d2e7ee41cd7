"""Experts among the methods of a front: small random adapters on a small base, and the fake engine for all else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM
from typer.testing import Result

from tests.training.front.conftest import report_of
from training.experts import policy


@pytest.fixture
def experts(chat_base: str, tmp_path: Path) -> Path:
    for seed, name in enumerate(("positivity", "simplicity")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(chat_base)
        lora = LoraConfig(
            task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False
        )
        get_peft_model(model, lora).save_pretrained(str(tmp_path / "experts" / name / "adapter"))
    return tmp_path / "experts"


def test_experts_are_mixed_both_ways_and_measured_as_all_others(
    call: Callable[..., Result], experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--experts", str(experts), "--best-of", "", "--max-tokens", "6")
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    (group,) = report_of(tmp_path)["groups"]
    by_name = {each["method"]: each for each in group["methods"]}
    assert list(by_name) == ["base", "tilted, exact", "prompted", "rewarded soup", "MOD"]
    soup, mod = by_name["rewarded soup"], by_name["MOD"]
    assert (soup["passes"], mod["passes"]) == (1.0, 2.0)
    for each in (soup, mod):
        assert each["kl_nats"]["value"] > 0.01 and each["perplexity"] > 1 and 0 < each["tokens"] <= 6
    ends = [[each["points"][place]["kl_nats"] for place in (0, -1)] for each in (soup, mod)]
    assert ends[0] == ends[1], "one expert alone is the same either way"
    assert soup["points"][2]["kl_nats"] != mod["points"][2]["kl_nats"]
    monkeypatch.setattr(policy.MixedPolicy, "sample", None)
    assert call(*arguments).exit_code == 0, "nothing is sampled twice"


def test_an_expert_that_is_not_there_is_named_with_the_command_that_makes_it(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    result = call("--experts", str(tmp_path / "none"))
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and "has none for positivity, simplicity; mavis train expert positivity" in said
