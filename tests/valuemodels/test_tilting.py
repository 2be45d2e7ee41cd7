"""The maths of one step, against an independent float64 reference and as properties."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from valuemodels.kl_budget import beta_within_budget, kl_divergence
from valuemodels.tilting import (
    NEG_INF,
    Candidates,
    Tilt,
    advantages_of,
    dropped_mass,
    prune,
    sampling_temperature,
    select_candidates,
    tilt,
    weighted_values,
    write_only,
    write_tilted,
)

logit = st.floats(-20, 20, width=32)
row = st.lists(logit, min_size=1, max_size=12)


def candidates_of(rows: list[list[float]]) -> Candidates:
    width = max(len(r) for r in rows)
    padded = torch.tensor([r + [NEG_INF] * (width - len(r)) for r in rows])
    return Candidates(torch.arange(width).expand(len(rows), -1).clone(), padded)


def reference(logits: list[float], v: list[float], temperature: float, beta: float) -> tuple[np.ndarray, float]:
    """softmax(z/T + beta v) and its KL to softmax(z/T), by the definition, in float64."""
    z = np.array(logits, dtype=np.float64) / temperature
    base = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    t = z + beta * np.array(v, dtype=np.float64)
    pi = np.exp(t - t.max()) / np.exp(t - t.max()).sum()
    mask = pi > 0
    return pi, float((pi[mask] * (np.log(pi[mask]) - np.log(base[mask]))).sum())


def strength(found: Tilt) -> list[float]:
    """Of every row, after the budget."""
    assert found.beta is not None
    return found.beta.tolist()


def tilt_one(z: list[float], v: list[float], temperature: float, beta: float, budget: float | None = None) -> Tilt:
    return tilt(
        candidates_of([z]),
        torch.tensor([v]),
        sampling_temperature(torch.tensor([temperature])),
        torch.tensor([beta]),
        None if budget is None else torch.tensor([budget]),
    )


@given(z=row, data=st.data(), temperature=st.floats(0.1, 3), beta=st.floats(0, 20))
@settings(deadline=None, max_examples=150)
def test_sampling_after_temperature_sees_the_papers_rule(z: Any, data: Any, temperature: Any, beta: Any) -> None:
    v = data.draw(st.lists(st.floats(-3, 3, width=32), min_size=len(z), max_size=len(z)))
    found = tilt_one(z, v, temperature, beta)
    pi, kl = reference(z, v, float(np.float32(temperature)), float(np.float32(beta)))
    sampled_from = torch.softmax(found.logits[0].double() / temperature, -1).numpy()
    assert np.allclose(sampled_from, pi, atol=2e-4)
    assert np.allclose(found.logprobs[0].double().exp().numpy(), pi, atol=1e-5)
    assert math.isclose(found.kl.item(), max(kl, 0.0), rel_tol=1e-4, abs_tol=1e-5)


@given(z=row, data=st.data(), beta=st.floats(0.01, 50), budget=st.floats(0.001, 3))
@settings(deadline=None, max_examples=200)
def test_a_kl_budget_is_met_and_beta_is_not_lowered_needlessly(z: Any, data: Any, beta: Any, budget: Any) -> None:
    v = data.draw(st.lists(st.floats(-3, 3, width=32), min_size=len(z), max_size=len(z)))
    found = tilt_one(z, v, 1.0, beta, budget)
    asked = tilt_one(z, v, 1.0, beta)
    assert found.kl.item() <= budget + 1e-4
    if asked.kl.item() <= budget - 1e-5:
        assert strength(found) == [pytest.approx(beta, rel=1e-6)]
    elif asked.kl.item() > budget + 1e-5:
        assert found.kl.item() >= budget - 1e-4, "beta was lowered further than the budget asks"


@given(z=row, data=st.data(), low=st.floats(0, 10), more=st.floats(0, 10))
@settings(deadline=None, max_examples=100)
def test_kl_never_falls_as_beta_grows(z: Any, data: Any, low: Any, more: Any) -> None:
    v = data.draw(st.lists(st.floats(-3, 3, width=32), min_size=len(z), max_size=len(z)))
    assert tilt_one(z, v, 1.0, low).kl.item() <= tilt_one(z, v, 1.0, low + more).kl.item() + 1e-5


def test_budgets_hold_row_by_row_and_infinity_is_none() -> None:
    z, v = [[0.0, 1.0, 2.0]] * 3, torch.tensor([[3.0, 0.0, -1.0]] * 3)
    budget = torch.tensor([0.01, math.inf, 0.2])
    found = tilt(candidates_of(z), v, torch.ones(3), torch.full((3,), 4.0), budget)
    assert found.kl[0] <= 0.0101 and found.kl[2] <= 0.2001 and strength(found)[1] == 4.0
    assert found.kl[1] > 0.2


def test_greedy_rows_are_tilted_and_measured_as_at_temperature_one() -> None:
    z, v = [1.0, 0.5, 0.0], [0.0, 0.3, 2.0]
    greedy, at_one = tilt_one(z, v, 0.0, 1.5), tilt_one(z, v, 1.0, 1.5)
    assert torch.equal(greedy.logits, at_one.logits) and torch.equal(greedy.kl, at_one.kl)
    assert greedy.logits.argmax().item() == int(np.argmax(np.array(z) + 1.5 * np.array(v)))


def test_beta_zero_changes_nothing() -> None:
    found = tilt_one([2.0, 1.0, -3.0], [5.0, -5.0, 1.0], 0.7, 0.0)
    assert found.logits.tolist() == [[2.0, 1.0, -3.0]] and found.kl.item() == 0.0


def test_what_the_base_forbids_stays_forbidden_and_the_rest_is_kept() -> None:
    logits = torch.tensor([[0.0, NEG_INF, 3.0, 1.0], [NEG_INF, NEG_INF, NEG_INF, 2.0]])
    found = select_candidates(logits, torch.tensor([3, 3]), 3, 64)
    assert found.token_ids[0].tolist() == [2, 3, 0] and found.valid[0].tolist() == [True] * 3
    assert found.valid[1].tolist() == [True, False, False] and found.token_ids[1, 0] == 3
    tilted = tilt(found, torch.full((2, 3), 100.0), torch.ones(2), torch.ones(2), None)
    assert tilted.logits[1].tolist() == [102.0, NEG_INF, NEG_INF]
    assert tilted.kl[1] == 0.0


@pytest.mark.parametrize("neighbour", [1, 41, 64])
def test_a_neighbours_candidates_never_change_mine_where_logits_tie(neighbour: Any) -> None:
    """In bfloat16 several tokens tie at a row's last rank; taken by the batch's largest k, others came out."""
    logits = (4 * torch.randn(200, 5000, generator=torch.Generator().manual_seed(1))).bfloat16()
    alone = select_candidates(logits, torch.full((200,), 40), 40, 64)
    counts = torch.full((201,), 40).index_fill(0, torch.tensor([200]), neighbour)
    beside = select_candidates(torch.cat([logits, logits[:1]]), counts, int(counts.max()), 64)
    ties = (logits == alone.logits[:, -1:].bfloat16()).sum(-1) > (alone.logits == alone.logits[:, -1:]).sum(-1)
    assert ties.sum() > 20, "the test needs rows with ties at rank 40"
    assert torch.equal(beside.token_ids[:200, :40], alone.token_ids)
    assert torch.equal(beside.logits[:200, :40], alone.logits) and not beside.valid[:200, 40:].any()


@given(st.lists(st.integers(1, 8), min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_every_row_keeps_its_own_number_of_candidates(counts: Any) -> None:
    logits = torch.randn(len(counts), 20, generator=torch.Generator().manual_seed(0))
    found = select_candidates(logits, torch.tensor(counts), max(counts), 64)
    assert found.valid.sum(-1).tolist() == counts
    for r, count in enumerate(counts):
        assert set(found.token_ids[r, :count].tolist()) == set(logits[r].topk(count).indices.tolist())


def test_candidates_are_capped_by_the_vocabulary() -> None:
    found = select_candidates(torch.tensor([[1.0, 3.0, 2.0]]), None, 40, 64)
    assert found.token_ids.tolist() == [[1, 2, 0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_whose_logits_are_no_numbers_is_not_tilted(bad: float) -> None:
    found = select_candidates(torch.tensor([[1.0, bad, 2.0], [1.0, 3.0, 2.0]]), None, 3, 64)
    assert tilt(found, torch.zeros(2, 3), torch.ones(2)).is_sound.tolist() == [False, True]


def test_advantages_of_average_to_zero_under_the_base_and_ignore_padding() -> None:
    base = torch.log_softmax(torch.tensor([[1.0, 0.0, NEG_INF]]), -1)
    values = torch.tensor([[[1.0], [3.0], [float("nan")]]])
    centred = advantages_of(values, base)
    assert abs((base.exp()[0, :2, None] * centred[0, :2]).sum().item()) < 1e-6
    assert math.isclose((centred[0, 1] - centred[0, 0]).item(), 2.0, abs_tol=1e-6)


def test_an_objective_of_weight_zero_has_no_say_even_when_it_is_nan() -> None:
    values = torch.tensor([[[1.0, float("nan")], [2.0, float("inf")]]])
    assert weighted_values(values, torch.tensor([[2.0, 0.0]])).tolist() == [[2.0, 4.0]]
    assert weighted_values(values, torch.tensor([[2.0, 1.0]])).isfinite().any().item() is False


def test_extreme_strengths_stay_finite_and_pick_the_best_candidate() -> None:
    found = tilt_one([0.0, 10.0, -10.0], [0.0, -4.0, 4.0], 1.0, 1e4)
    assert found.logprobs.exp()[0].tolist() == [0.0, 0.0, 1.0]
    assert math.isfinite(found.kl.item()) and math.isclose(found.kl.item(), 20.0, abs_tol=0.1)


def test_solver_does_not_lose_the_root_where_the_kl_saturates() -> None:
    base = torch.log_softmax(torch.tensor([[0.0, -12.0]], dtype=torch.float64), -1)
    v = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    asked, budget = torch.tensor([1e3], dtype=torch.float64), torch.tensor([6.0]).double()
    beta = beta_within_budget(base, v, asked, budget, torch.zeros_like(v))
    tilted = torch.log_softmax(base + beta[:, None] * v, -1)
    assert math.isclose(kl_divergence(tilted, base).item(), 6.0, abs_tol=1e-4)


@given(z=row, data=st.data(), beta=st.floats(0, 20), budget=st.floats(0.001, 3))
@settings(deadline=None, max_examples=200)
def test_a_budget_lowers_what_is_free_and_never_what_is_pinned(z: Any, data: Any, beta: Any, budget: Any) -> None:
    finite = st.lists(st.floats(-3, 3, width=32), min_size=len(z), max_size=len(z))
    v, u = data.draw(finite), data.draw(finite)

    def tilted(asked: float, limit: float | None) -> Tilt:
        limits = None if limit is None else torch.tensor([limit])
        return tilt(
            candidates_of([z]),
            torch.tensor([v]),
            torch.ones(1),
            torch.tensor([asked]),
            limits,
            torch.tensor([u]),
        )

    found, pinned_alone = tilted(beta, budget), tilted(0.0, None)
    shift = found.logits[0].double().numpy() - np.array(z, dtype=np.float32)
    assert np.allclose(shift, np.array(u) + strength(found)[0] * np.array(v), atol=1e-4 * (1 + beta))
    if found.kl.item() > budget + 1e-4:
        assert strength(found) == [0.0] and torch.equal(found.kl, pinned_alone.kl), "the floor stands before the budget"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_tilt_that_is_no_number_is_told_from_one_that_is(bad: float, place: int) -> None:
    v = torch.tensor([[1.0, -2.0, 3.0]] * 3)
    v[0, place] = bad
    z = [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 1.0]]
    assert tilt(candidates_of(z), v, torch.ones(3)).is_sound.tolist() == [False, True, True]
    nothing = tilt(candidates_of([[NEG_INF, NEG_INF]]), torch.zeros(1, 2), torch.ones(1))
    assert nothing.is_sound.tolist() == [False], "there is no candidate"
    budget = tilt(candidates_of(z), v, torch.ones(3), kl_budget=torch.full((3,), 0.1))
    assert budget.is_sound.tolist() == [False, True, True]


def test_no_strength_is_a_strength_of_one_and_no_counts_are_equal_counts() -> None:
    z = torch.randn(3, 30, generator=torch.Generator().manual_seed(5))
    few, same = select_candidates(z, torch.full((3,), 7), 7, 64), select_candidates(z, None, 7, 64)
    assert torch.equal(few.token_ids, same.token_ids) and torch.equal(few.logits, same.logits)
    v = torch.randn(3, 7, generator=torch.Generator().manual_seed(6))
    assert torch.equal(tilt(few, v, torch.ones(3)).logits, tilt(few, v, torch.ones(3), torch.ones(3)).logits)


def test_a_row_that_is_ended_has_one_token_left_and_its_neighbours_all_of_theirs() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    write_only(logits, torch.tensor([3, 0]), torch.tensor([5, 6]), torch.tensor([True, False]))
    assert torch.equal(logits[:3], before[:3])
    assert (logits[3] > NEG_INF).nonzero().flatten().tolist() == [5]


def test_writing_touches_replaced_rows_alone_and_forbids_everything_off_the_candidates() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    index = torch.tensor([3, 0, 2])
    found = select_candidates(logits[index], torch.tensor([2, 3, 2]), 3, 64)
    replaced = torch.tensor([True, False, True])
    whole = before[index]
    write_tilted(whole, None, found, found.logits + 1, replaced)
    write_tilted(logits, index, found, found.logits + 1, replaced)
    assert torch.equal(whole, logits[index]), "all rows of a batch, or some of a larger one"
    assert torch.equal(logits[[0, 1]], before[[0, 1]])
    for place, r in ((0, 3), (2, 2)):
        kept = found.token_ids[place, :2]
        assert torch.equal(logits[r, kept], before[r, kept] + 1)
        assert (logits[r] > NEG_INF).sum() == 2


def test_pruning_is_by_the_share_of_the_likeliest_and_tells_what_it_dropped() -> None:
    p = [[0.5, 0.3, 0.15, 0.05], [0.97, 0.01, 0.01, 0.01], [0.4, 0.3, 0.2, 0.1]]
    candidates = candidates_of(np.log(p).tolist())
    kept = prune(candidates, torch.tensor([math.log(0.25), math.log(0.25), -math.inf]))
    assert kept.valid.sum(1).tolist() == [3, 1, 4]
    assert dropped_mass(candidates, kept, torch.ones(3)).tolist() == pytest.approx([0.05, 0.03, 0.0], abs=1e-6)
    at_half = dropped_mass(candidates, kept, torch.full((3,), 0.5))[0].item()
    assert at_half == pytest.approx(0.05**2 / sum(x * x for x in p[0]), abs=1e-6)
