"""One step of the guide: who is tilted, who is left alone, and what happens when values are no numbers."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from valuemodels.guidance import GuidancePolicy, ResolvedGuidance
from valuemodels.guide import Row, ValueGuide, objective_names, resolve_dtype
from valuemodels.scorer import Query
from valuemodels.value_config import CheckpointError, ObjectiveConfig

VOCAB = 10


class TableScorer:
    """Values by token id: a stand-in for a trunk, where the tilt and not the trunk is the point."""

    def __init__(self, name: str, table: list[float], scale: float = 1.0) -> None:
        self.checkpoint_id = f"{name}-checkpoint"
        self.objectives = (ObjectiveConfig(name=name, description=name, reward=name, mean=1.0, std=2.0, scale=scale),)
        self.table = torch.tensor(table)
        self.queries: list[Query] = []

    def score(self, queries: Sequence[Query]) -> list[Tensor]:
        self.queries = list(queries)
        return [self.table[query.candidates][:, None] for query in queries]


def guide_of(*scorers: TableScorer) -> ValueGuide:
    policy = GuidancePolicy(objectives=tuple(s.objectives[0].name for s in scorers))
    return ValueGuide(scorers, policy, torch.device("cpu"), max_traces=16)


def row(index: int, *weights: float, beta: float = 1.0, k: int = 4, output: list[int] | None = None, **more) -> Row:
    guidance = ResolvedGuidance(weights, beta, k, more.get("kl_budget"), "exact", more.get("trace", "totals"))
    name = f"r{index}"
    return Row(index, name, name, "0:0", guidance, more.get("temperature", 1.0), [1, 2], output or [])


def logits(rows: int = 3) -> Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(0))


def test_only_rows_that_ask_are_touched():
    before = logits()
    after = guide_of(TableScorer("warmth", [float(i) for i in range(VOCAB)])).step(before.clone(), [row(1, 1.0)])
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    kept = after[1] > float("-inf")
    assert kept.sum() == 4 and set(kept.nonzero().flatten().tolist()) == set(before[1].topk(4).indices.tolist())


def test_the_tilt_is_temperature_times_beta_times_weight_times_scale_times_value():
    before = logits()
    table = torch.arange(VOCAB).float() / 10
    guide = guide_of(TableScorer("warmth", table.tolist(), scale=3.0))
    after = guide.step(before.clone(), [row(0, 0.5, beta=2.0, temperature=0.7)])
    kept = after[0] > float("-inf")
    torch.testing.assert_close(after[0][kept], (before[0] + 0.7 * 2.0 * 0.5 * 3.0 * table)[kept])


def test_a_row_that_only_watches_keeps_its_logits_bit_for_bit_and_leaves_a_trace():
    before = logits()
    guide = guide_of(TableScorer("warmth", [1.0] * VOCAB))
    output: list[int] = []
    watched = row(0, 0.0, trace="values", output=output)
    object.__setattr__(watched, "output", output)
    after = guide.step(before.clone(), [watched])
    assert torch.equal(after, before)
    output.append(before[0].argmax().item())
    trace = guide.traces.read({"r0": {}})["r0"]["0:0"]
    assert trace["kl"] == [0.0] and trace["values"] == [[pytest.approx(0.0, abs=1e-6)]]
    assert trace["levels"] == [[pytest.approx(3.0)]], "levels are mean + std * value, in the reward's own units"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_never_reach_the_sampler(bad, caplog):
    before = logits()
    table = [0.0] * VOCAB
    broken = int(before[0].argmax())
    table[broken] = bad
    guide = guide_of(TableScorer("warmth", table), TableScorer("brevity", [float(i) for i in range(VOCAB)]))
    others = [r for r in (1, 2) if broken not in before[r].topk(4).indices]
    rows = [row(0, 1.0, 1.0), *(row(r, 1.0, 1.0) for r in others)]
    after = guide.step(before.clone(), rows)
    assert torch.equal(after[0], before[0]), "the broken row falls back to the base"
    for r in others:
        assert not torch.equal(after[r], before[r]), "other rows are still tilted"
    assert guide.counters.value_fallback_rows == 1
    assert "warmth" in caplog.text and "brevity" not in caplog.text


def test_a_broken_objective_that_has_no_weight_disturbs_nobody():
    before = logits()
    guide = guide_of(TableScorer("warmth", [float("nan")] * VOCAB), TableScorer("brevity", [1.0] * VOCAB))
    after = guide.step(before.clone(), [row(0, 0.0, 1.0)])
    assert guide.counters.value_fallback_rows == 0 and not torch.equal(after[0], before[0])
    assert not after[0].isnan().any()


def test_a_scorer_that_raises_falls_back_instead_of_ending_the_engine():
    class Raising(TableScorer):
        def score(self, queries: Sequence[Query]) -> list[Tensor]:
            raise RuntimeError("out of memory")

    before = logits()
    guide = guide_of(Raising("warmth", [0.0] * VOCAB))
    assert torch.equal(guide.step(before.clone(), [row(0, 1.0)]), before)
    assert guide.counters.value_fallback_rows == 1


def test_tokens_the_base_forbids_are_neither_scored_nor_allowed():
    before = logits(1)
    before[0, 3:] = float("-inf")
    scorer = TableScorer("warmth", [5.0] * VOCAB)
    after = guide_of(scorer).step(before.clone(), [row(0, 1.0, k=8)])
    assert sorted(scorer.queries[0].candidates.tolist()) == [0, 1, 2]
    assert (after[0, 3:] == float("-inf")).all()


def test_a_row_with_nothing_allowed_is_left_to_the_engine():
    before = torch.full((1, VOCAB), float("-inf"))
    after = guide_of(TableScorer("warmth", [1.0] * VOCAB)).step(before.clone(), [row(0, 1.0)])
    assert torch.equal(after, before)


def test_each_row_uses_its_own_weights_strength_and_budget():
    before = logits(1).expand(4, -1).clone()
    guide = guide_of(TableScorer("warmth", [float(i) for i in range(VOCAB)]))
    rows = [row(0, 1.0), row(1, -1.0), row(2, 1.0, beta=0.5), row(3, 1.0, kl_budget=0.01)]
    together = guide.step(before.clone(), rows)
    for r in rows:
        alone = guide.step(before.clone(), [r])
        assert torch.equal(alone[r.index], together[r.index])
    assert len({tuple(t.tolist()) for t in together}) == 4


def test_requests_that_only_defaults_guide_leave_no_trace():
    guide = guide_of(TableScorer("warmth", [float(i) for i in range(VOCAB)]))
    guide.step(logits(), [dataclasses.replace(row(0, 1.0), generation_id="")])
    assert guide.traces.read({"": {}}) == {}


def test_two_checkpoints_with_one_name_are_refused(tiny_checkpoint):
    with pytest.raises(CheckpointError, match="warmth is in both"):
        objective_names([str(tiny_checkpoint), str(tiny_checkpoint)])


def test_auto_dtype_is_float32_on_cpus_without_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert resolve_dtype("auto", torch.device("cpu"), torch.bfloat16) == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert resolve_dtype("auto", torch.device("cpu"), torch.bfloat16) == torch.bfloat16
    assert resolve_dtype("auto", torch.device("cuda"), torch.float16) == torch.float16
    assert resolve_dtype("float32", torch.device("cuda"), torch.bfloat16) == torch.float32
