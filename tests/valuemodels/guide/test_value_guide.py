"""One step of the guide: who is tilted, who is left alone, and what happens when values are no numbers."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from valuemodels.contract.guidance import ChoiceName, ResolvedGuidance
from valuemodels.contract.policy import GuidancePolicy
from valuemodels.contract.value_config import ObjectiveConfig
from valuemodels.guide.value_guide import ValueGuide
from valuemodels.scoring.rows import Row
from valuemodels.scoring.scorer import ScoringBatch

VOCAB = 10


class TableScorer:
    """Values by token id: a stand-in for a trunk, where the tilt and not the trunk is the point."""

    def __init__(self, name: str, table: list[float], scale: float = 1.0, gives_levels: bool = True) -> None:
        self.checkpoint_id = f"{name}-checkpoint"
        self.objectives: tuple[ObjectiveConfig, ...] = (
            ObjectiveConfig(name=name, description=name, reward=name, mean=1.0, std=2.0, scale=scale),
        )
        self.scales: tuple[float, ...] = (scale,)
        self.gives_levels = gives_levels
        self.table = torch.tensor(table)
        self.batches: list[ScoringBatch] = []

    def score(self, batch: ScoringBatch) -> Tensor:
        self.batches.append(batch)
        return self.table[batch.candidates.token_ids][..., None]


def guide_of(*scorers: TableScorer) -> ValueGuide:
    policy = GuidancePolicy(objectives=tuple(s.objectives[0].name for s in scorers))
    return ValueGuide({"exact": scorers}, policy, torch.device("cpu"), max_traces=16)


def row(
    index: int, *weights: float, beta: float = 1.0, k: int = 4, output: list[int] | None = None, **more: Any
) -> Row:
    guidance = ResolvedGuidance(
        weights=weights,
        beta=beta,
        candidates=k,
        kl_budget=more.get("kl_budget"),
        scoring=more.get("scoring", "exact"),
        trace=more.get("trace", "totals"),
        strengths=tuple(weight * beta for weight in weights),
        pins=more.get("pins", (0.0,) * len(weights)),
    )
    name = f"r{index}"
    return Row(index, name, name, ChoiceName(0, 0), guidance, more.get("temperature", 1.0), [1, 2], output or [])


def logits(rows: int = 3) -> Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(0))


def test_only_rows_that_ask_are_touched() -> None:
    before = logits()
    after = guide_of(TableScorer("warmth", [float(i) for i in range(VOCAB)])).step(before.clone(), [row(1, 1.0)])
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    kept = after[1] > float("-inf")
    assert kept.sum() == 4 and set(kept.nonzero().flatten().tolist()) == set(before[1].topk(4).indices.tolist())


def test_the_tilt_is_temperature_times_beta_times_weight_times_scale_times_value() -> None:
    before = logits()
    table = torch.arange(VOCAB).float() / 10
    guide = guide_of(TableScorer("warmth", table.tolist(), scale=3.0))
    after = guide.step(before.clone(), [row(0, 0.5, beta=2.0, temperature=0.7)])
    kept = after[0] > float("-inf")
    torch.testing.assert_close(after[0][kept], (before[0] + 0.7 * 2.0 * 0.5 * 3.0 * table)[kept])


def test_a_row_that_only_watches_keeps_its_logits_bit_for_bit_and_leaves_a_trace() -> None:
    before = logits()
    guide = guide_of(TableScorer("warmth", [1.0] * VOCAB))
    output: list[int] = []
    watched = row(0, 0.0, trace="values", output=output)
    object.__setattr__(watched, "output", output)
    after = guide.step(before.clone(), [watched])
    assert torch.equal(after, before)
    output.append(int(before[0].argmax()))
    trace = guide.traces.read({"r0": {}})["r0"]["0:0"]
    assert trace["kl"] == [0.0] and trace["advantages"] == [[pytest.approx(0.0, abs=1e-6)]]
    assert trace["levels"] == [[pytest.approx(3.0)]], "levels are mean + std * value, in the reward's own units"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_never_reach_the_sampler(bad: Any, caplog: pytest.LogCaptureFixture) -> None:
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
    assert guide.stats()["value_fallback_rows"] == 1
    assert "warmth" in caplog.text and "brevity" not in caplog.text


def test_a_broken_objective_that_has_no_weight_disturbs_nobody() -> None:
    before = logits()
    guide = guide_of(TableScorer("warmth", [float("nan")] * VOCAB), TableScorer("brevity", [1.0] * VOCAB))
    after = guide.step(before.clone(), [row(0, 0.0, 1.0)])
    assert guide.stats()["value_fallback_rows"] == 0 and not torch.equal(after[0], before[0])
    assert not after[0].isnan().any()


class Unreadable(TableScorer):
    """Cannot score a batch that holds one of these rows."""

    unreadable: tuple[str, ...] = ("r1",)

    def score(self, batch: ScoringBatch) -> Tensor:
        if any(row.sequence_id in self.unreadable for row in batch.rows):
            self.batches.append(batch)
            raise RuntimeError("out of memory")
        return super().score(batch)


def test_a_row_that_cannot_be_scored_costs_nobody_else_anything(caplog: pytest.LogCaptureFixture) -> None:
    """One row beyond a trunk's limits used to switch guidance off for its whole batch."""
    before, scorer = logits(), Unreadable("warmth", [float(i) for i in range(VOCAB)])
    guide = guide_of(scorer)
    rows = [row(i, 1.0) for i in range(3)]
    expected = guide_of(TableScorer("warmth", [float(i) for i in range(VOCAB)])).step(before.clone(), rows)
    for _ in range(2):
        after = guide.step(before.clone(), rows)
        assert torch.equal(after[1], before[1]) and torch.equal(after[[0, 2]], expected[[0, 2]])
    assert [len(batch.rows) for batch in scorer.batches] == [3, 1, 1, 1, 2, 1], "then the others are one batch again"
    scorer.unreadable = ()
    guide.step(before.clone(), rows)
    guide.step(before.clone(), rows)
    assert len(scorer.batches[-1].rows) == 3, "a row that can be scored again goes with the others again"


def test_a_row_that_one_value_model_cannot_read_is_suspected_by_that_one_alone() -> None:
    """Its success with another model took the suspicion back, and the first model's batch failed at every step."""
    bad, good = Unreadable("warmth", [0.0] * VOCAB), TableScorer("brevity", [1.0] * VOCAB)
    guide, rows = guide_of(bad, good), [row(i, 1.0, 1.0) for i in range(3)]
    for _ in range(3):
        guide.step(logits(), rows)
    assert [len(batch.rows) for batch in bad.batches] == [3, 1, 1, 1, 2, 1, 2, 1]
    assert [len(batch.rows) for batch in good.batches] == [3, 3, 3]


def test_a_scorer_that_always_fails_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    guide = guide_of(Unreadable("warmth", [0.0] * VOCAB))
    before = logits(2)
    for _ in range(50):
        assert torch.equal(guide.step(before.clone(), [row(1, 1.0)]), before)
    assert 0 < len(caplog.records) < 20


def abort_on_errors(*scorers: TableScorer) -> ValueGuide:
    names = tuple(s.objectives[0].name for s in scorers)
    policy = GuidancePolicy(objectives=names, on_value_error={"warmth": "abort"})
    return ValueGuide({"exact": scorers}, policy, torch.device("cpu"), max_traces=16)


def test_where_the_operator_says_so_a_broken_value_ends_the_sequence() -> None:
    before = logits()
    guide = abort_on_errors(TableScorer("warmth", [float("nan")] * VOCAB), TableScorer("brevity", [1.0] * VOCAB))
    output: list[int] = []
    ended, other = row(0, 1.0, 0.0), row(2, 0.0, 1.0)
    after = guide.step(before.clone(), [dataclasses.replace(ended, last_token=7, output=output), other])
    assert (after[0] > float("-inf")).nonzero().flatten().tolist() == [7], "nothing of the base's is sampled"
    assert torch.equal(after[1], before[1]) and not torch.equal(after[2], before[2])
    output.append(7)
    trace = guide.traces.read({"r0": {}})["r0"]["0:0"]
    assert trace["is_aborted"] and trace["fell_back"] == [True]


def test_a_pinned_objective_is_tilted_by_its_floor_whatever_the_budget() -> None:
    before, table = logits(), torch.arange(VOCAB).float() / 10
    guide = guide_of(TableScorer("warmth", table.tolist(), scale=3.0))
    after = guide.step(before.clone(), [row(0, 2.0, pins=(0.5,), kl_budget=1e-12)])
    kept = after[0] > float("-inf")
    torch.testing.assert_close(after[0][kept], (before[0] + 0.5 * 3.0 * table)[kept])


def test_tokens_the_base_forbids_are_neither_scored_nor_allowed() -> None:
    before = logits(1)
    before[0, 3:] = float("-inf")
    scorer = TableScorer("warmth", [5.0] * VOCAB)
    after = guide_of(scorer).step(before.clone(), [row(0, 1.0, k=8)])
    candidates = scorer.batches[0].candidates
    assert sorted(candidates.token_ids[candidates.valid].tolist()) == [0, 1, 2]
    assert (after[0, 3:] == float("-inf")).all()


def test_a_row_with_nothing_allowed_is_left_to_the_engine() -> None:
    before = torch.full((1, VOCAB), float("-inf"))
    after = guide_of(TableScorer("warmth", [1.0] * VOCAB)).step(before.clone(), [row(0, 1.0)])
    assert torch.equal(after, before)


def test_each_row_uses_its_own_weights_strength_and_budget() -> None:
    before = logits(1).expand(4, -1).clone()
    guide = guide_of(TableScorer("warmth", [float(i) for i in range(VOCAB)]))
    rows = [row(0, 1.0), row(1, -1.0), row(2, 1.0, beta=0.5), row(3, 1.0, kl_budget=0.01)]
    together = guide.step(before.clone(), rows)
    for r in rows:
        alone = guide.step(before.clone(), [r])
        assert torch.equal(alone[r.index], together[r.index])
    assert len({tuple(t.tolist()) for t in together}) == 4


def test_requests_that_only_defaults_guide_leave_no_trace() -> None:
    guide = guide_of(TableScorer("warmth", [float(i) for i in range(VOCAB)]))
    guide.step(logits(), [dataclasses.replace(row(0, 1.0), generation_id="")])
    assert guide.traces.read({"": {}}) == {}


def two_ways() -> tuple[ValueGuide, TableScorer, TableScorer]:
    exact = TableScorer("warmth", [float(i) for i in range(VOCAB)])
    fast = TableScorer("warmth", [-float(i) for i in range(VOCAB)], scale=2.0, gives_levels=False)
    policy = GuidancePolicy(objectives=("warmth",), scorings=("exact", "fast"), default_scoring="fast")
    return ValueGuide({"exact": [exact], "fast": [fast]}, policy, torch.device("cpu"), max_traces=16), exact, fast


def test_every_row_is_scored_and_scaled_in_its_own_way() -> None:
    """Catches a batch that takes one row's way of scoring for all, and values written to the wrong row."""
    guide, exact, fast = two_ways()
    before = logits(4)
    rows = [row(0, 1.0), row(1, 1.0, scoring="fast"), row(2, 0.5), row(3, 1.0, scoring="fast")]
    after = guide.step(before.clone(), rows)
    assert [r.index for r in exact.batches[0].rows] == [0, 2] and [r.index for r in fast.batches[0].rows] == [1, 3]
    for r, factor in enumerate((1.0, -2.0, 0.5, -2.0)):
        kept = after[r] > float("-inf")
        torch.testing.assert_close(after[r][kept], (before[r] + factor * torch.arange(VOCAB))[kept])


def test_hidden_states_follow_their_rows_into_every_scorer() -> None:
    guide, exact, fast = two_ways()
    hidden = torch.arange(5.0)[:, None]
    guide.step(logits(5), [row(1, 1.0, scoring="fast"), row(2, 1.0), row(4, 1.0, scoring="fast")], hidden)
    seen = [scorer.batches[0].hidden for scorer in (fast, exact)]
    assert [None if states is None else states.flatten().tolist() for states in seen] == [[1.0, 4.0], [2.0]]


def test_levels_are_given_only_where_scoring_knows_them() -> None:
    guide, _, _ = two_ways()
    outputs: list[list[int]] = [[], []]
    rows = [row(0, 1.0), row(1, 1.0, scoring="fast")]
    rows = [dataclasses.replace(r, output=output) for r, output in zip(rows, outputs, strict=True)]
    after = guide.step(logits(2), rows)
    for r, output in enumerate(outputs):
        output.append(int(after[r].argmax()))
    traces = guide.traces.read({"r0": {}, "r1": {}})
    assert traces["r0"]["0:0"]["levels"] == [[1.0 + 2.0 * outputs[0][0]]]
    assert traces["r1"]["0:0"]["levels"] == [None] and traces["r1"]["0:0"]["advantages"][0] is not None


def test_a_single_candidate_has_no_level() -> None:
    """Nothing is valued where there is nothing to choose, so no expected reward must be told."""
    guide = guide_of(TableScorer("warmth", [1.0] * VOCAB))
    output: list[int] = []
    watched = dataclasses.replace(row(0, 1.0, k=1, trace="values"), output=output)
    after = guide.step(logits(), [watched])
    output.append(int(after[0].argmax()))
    trace = guide.traces.read({"r0": {}})["r0"]["0:0"]
    assert trace["levels"] == [None] and trace["advantages"] == [[pytest.approx(0.0, abs=1e-6)]]


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_pruned_tokens_are_not_sampled_and_their_mass_is_told(temperature: float) -> None:
    """By probability at the sampling temperature; a greedy row is tilted as at 1."""
    before, at = logits(), temperature or 1.0
    guide = guide_of(TableScorer("warmth", [0.1 * i for i in range(VOCAB)]))
    output: list[int] = []
    pruned = row(0, 1.0, k=8, trace="values", temperature=temperature)
    guidance = dataclasses.replace(pruned.guidance, candidate_min_p=0.3)
    after = guide.step(before.clone(), [dataclasses.replace(pruned, guidance=guidance, output=output)])
    p = torch.softmax(before[0].topk(8).values / at, 0)
    kept = p >= 0.3 * p[0]
    assert (after[0] > float("-inf")).sum() == kept.sum() < 8
    output.append(int(after[0].argmax()))
    trace = guide.traces.read({"r0": {}})["r0"]["0:0"]
    assert trace["dropped"] == [pytest.approx(p[~kept].sum().item(), abs=1e-5)]
