"""From folders to scorers: which ways of scoring are loaded, in which arithmetic, and what is refused."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from valuemodels.contract.errors import CheckpointError, GuidanceError
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.value_config import read_value_config
from valuemodels.guide import loading
from valuemodels.guide.loading import load_guide, resolve_dtype
from valuemodels.models import check
from valuemodels.models.checkpoint import read_tensors, save_checkpoint
from valuemodels.scoring.exact import ExactScorer

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny_base: str, tiny_probed_checkpoint: Path) -> GuideConfig:
    return GuideConfig(checkpoints=(str(tiny_probed_checkpoint),), base_model=tiny_base)


def test_a_checkpoint_with_a_probe_offers_all_and_fast_is_the_default(config: Any) -> None:
    guide = load_guide(config, CPU, torch.float32)
    assert set(guide.scorers) == {"exact", "fast", "hybrid"} and guide.policy.default_scoring == "fast"


def test_the_operator_chooses_the_default_and_what_is_loaded(config: Any) -> None:
    exact = load_guide(dataclasses.replace(config, default_scoring="exact"), CPU, torch.float32)
    assert exact.policy.default_scoring == "exact" and set(exact.scorers) == {"exact", "fast", "hybrid"}
    fast = load_guide(dataclasses.replace(config, scorings=("fast",)), CPU, torch.float32)
    assert set(fast.scorers) == {"fast"}, "no trunk is loaded where nobody may ask for exact scoring"
    assert fast.stats()["cache_capacity_bytes"] == 0
    hybrid = load_guide(dataclasses.replace(config, scorings=("hybrid",)), CPU, torch.float32)
    assert set(hybrid.scorers) == {"hybrid"} and hybrid.stats()["cache_capacity_bytes"] > 0


def test_a_trunk_is_prepared_and_tried_while_no_step_is_under_way(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch vLLM's kernels in a loading thread: they share with those of the step what they work with."""
    handed_over: list[Any] = []
    done_within: list[bool] = []

    def have_done(work: Any) -> Any:
        handed_over.append(work)
        found = work()
        handed_over.pop()
        return found

    def note(_: Any) -> None:
        done_within.append(bool(handed_over))

    def noted(scorer: ExactScorer, queries: Any) -> Any:
        note(scorer)
        return tried(scorer, queries)

    tried = ExactScorer.score_queries
    monkeypatch.setattr(ExactScorer, "score_queries", noted)
    load_guide(config, CPU, torch.float32, prepare_trunk=note, between_steps=have_done)
    assert done_within == [True, True] and not handed_over


def test_loading_leaves_the_default_dtype_of_all_threads_alone(
    config: Any, tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a bfloat16 base whose embeddings are loaded as such: what a step makes meanwhile would be, too."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    chosen: list[torch.dtype] = []
    monkeypatch.setattr(torch, "set_default_dtype", chosen.append)
    load_guide(dataclasses.replace(config, base_model=str(base)), CPU, torch.bfloat16)
    assert set(chosen) <= {torch.float32}


def test_a_checkpoint_without_a_probe_offers_exact_alone(tiny_base: str, tiny_checkpoint: Path) -> None:
    config = GuideConfig(checkpoints=(str(tiny_checkpoint),), base_model=tiny_base)
    assert load_guide(config, CPU, torch.float32).policy.scorings == ("exact",)
    with pytest.raises(GuidanceError, match=r"scorings: got .*fast.*, allowed is some of exact"):
        load_guide(dataclasses.replace(config, scorings=("fast",)), CPU, torch.float32)
    with pytest.raises(GuidanceError, match="scoring: got 'fast', allowed is one of exact"):
        load_guide(dataclasses.replace(config, default_scoring="fast"), CPU, torch.float32)


def test_a_probe_alone_offers_fast_and_loads_no_trunk(
    tiny_base: str, tiny_probed_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = read_value_config(tiny_probed_checkpoint)
    objectives = tuple(objective.model_copy(update={"scale": None}) for objective in probed.objectives)
    changes = {"backbone": None, "head": None, "objectives": objectives, "format_version": 3}
    tensors = read_tensors(tiny_probed_checkpoint, part="probe")
    save_checkpoint(tmp_path / "alone", probed.model_copy(update=changes), tensors)
    assert check.main([str(tmp_path / "alone"), "--base", tiny_base]) == 0
    config = GuideConfig(checkpoints=(str(tmp_path / "alone"),), base_model=tiny_base)
    guide = load_guide(config, CPU, torch.float32)
    assert set(guide.scorers) == {"fast"} and guide.policy.scorings == ("fast",)
    with pytest.raises(GuidanceError, match="scoring: got 'exact', allowed is one of fast"):
        load_guide(dataclasses.replace(config, default_scoring="exact"), CPU, torch.float32)


def test_two_checkpoints_with_one_name_are_refused(tiny_base: str, tiny_checkpoint: Path) -> None:
    config = GuideConfig(checkpoints=(str(tiny_checkpoint),) * 2, base_model=tiny_base)
    with pytest.raises(CheckpointError, match="objective warmth is in both value checkpoints"):
        load_guide(config, CPU, torch.float32)


def test_auto_dtype_is_float32_on_cpus_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "has_fast_bfloat16", lambda: False)
    assert resolve_dtype("auto", CPU, torch.bfloat16) == torch.float32
    monkeypatch.setattr(loading, "has_fast_bfloat16", lambda: True)
    assert resolve_dtype("auto", CPU, torch.bfloat16) == torch.bfloat16
    assert resolve_dtype("auto", torch.device("cuda"), torch.float16) == torch.float16
    assert resolve_dtype("float32", torch.device("cuda"), torch.bfloat16) == torch.float32


def test_a_cache_that_could_never_hold_the_longest_sequence_is_refused_at_the_start(config: Any) -> None:
    small = dataclasses.replace(config, cache_gib=1e-4)
    load_guide(small, CPU, torch.float32, max_positions=64)
    with pytest.raises(CheckpointError, match=r"0\.0001 GiB does not hold one sequence of 8000 tokens.*--value-cache-"):
        load_guide(small, CPU, torch.float32, max_positions=8000)
