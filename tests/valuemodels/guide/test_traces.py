"""Traces hold one entry a sampled token, whatever order steps, samples and reads come in."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from valuemodels.contract.guidance import ChoiceName, ResolvedGuidance, TraceDetail
from valuemodels.contract.trace_wire import CandidateColumns, TokenRange
from valuemodels.guide.step_record import SETTLE_ROWS, SETTLE_STEPS, Backlog, StepRecord
from valuemodels.guide.traces import TraceStore
from valuemodels.scoring.rows import Row


def record(*rows: list[int], mark: float = 0.1, scored: bool = True, levels: bool = True) -> StepRecord:
    """Per row equally likely candidates, whose values are their ids. `mark`, as what was dropped, tells steps apart."""
    k = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (k - len(row))] for row in rows])
    logits = torch.tensor([[1.0] * len(row) + [-math.inf] * (k - len(row)) for row in rows])
    return StepRecord(
        token_ids=ids,
        logits=logits,
        shift=torch.where(logits.isfinite(), ids / 10, 0.0),
        temperature=torch.ones(len(rows)),
        values=ids[..., None].float(),
        needed=torch.ones(len(rows), 1, dtype=torch.bool),
        dropped=torch.full((len(rows),), mark),
        is_sound=torch.full((len(rows),), scored),
        is_aborted=torch.zeros(len(rows), dtype=torch.bool),
        is_level=torch.full((len(rows),), levels),
        means=torch.tensor([5.0]),
        stds=torch.tensor([10.0]),
    )


def row(output: list[int], name: str = "g", detail: TraceDetail = "values", index: int = 0) -> Row:
    guidance = ResolvedGuidance((1.0,), 1.0, 4, None, "exact", detail, (1.0,), (0.0,))
    return Row(index, name, name, ChoiceName(0, 0), guidance, 1.0, [1], output)


def read(store: TraceStore, start: int = 0, told: Sequence[int] | None = None) -> dict[str, Any]:
    """What is told of tokens `start` on; without `told`, of everything there is, cut here."""
    if told is not None:
        found: dict[str, Any] = store.read({"g": {"0:0": TokenRange(start, told)}})["g"]["0:0"]
        return found
    whole: dict[str, Any] = store.read({"g": {}})["g"]["0:0"]
    known = store.read({"g": {"0:0": TokenRange(start, whole["token_ids"][start:])}})["g"]["0:0"]
    return dict(known)


def test_a_token_is_entered_once_it_has_been_sampled() -> None:
    store, output = TraceStore(4), list[int]()
    store.record(record([5, 7]), [row(output)])
    assert read(store)["kl"] == []
    output.append(7)
    found = read(store)
    assert found["token_ids"] == [7] and found["dropped"] == [pytest.approx(0.1)]
    p = 1 / (1 + math.exp(-0.2))
    assert found["kl"] == [pytest.approx(p * math.log(2 * p) + (1 - p) * math.log(2 - 2 * p), abs=1e-6)]
    assert found["advantages"] == [[1.0]], "7 minus the mean of 5 and 7"
    assert found["levels"] == [[75.0]], "mean + std * value"


def test_the_last_token_of_a_generation_is_read_without_another_step() -> None:
    store, output = TraceStore(4), list[int]()
    for token in (5, 6, 7):
        store.record(record([5, 6, 7]), [row(output)])
        output.append(token)
    assert read(store, 1)["token_ids"] == [6, 7] and read(store, 1)["advantages"] == [[0.0], [1.0]]


def test_rows_of_one_step_are_settled_together_and_never_crossed() -> None:
    store, outputs = TraceStore(4), {name: list[int]() for name in "abc"}
    rows = [row(output, name, index=i) for i, (name, output) in enumerate(outputs.items())]
    store.record(record([5, 7], [9, 3, 6], [4]), rows)
    for name, token in zip("abc", (7, 3, 4), strict=True):
        outputs[name].append(token)
    store.record(record([1], [2]), rows[:2])
    found = {name: store.read({name: {}})[name]["0:0"] for name in "abc"}
    assert [found[name]["advantages"] for name in "abc"] == [[[pytest.approx(v)]] for v in (1.0, -3.0, 0.0)]


def test_a_token_that_async_scheduling_has_not_repaired_yet_waits() -> None:
    store, output = TraceStore(4), list[int]()
    store.record(record([5]), [row(output)])
    output.append(-1)
    assert read(store)["kl"] == []
    output[0] = 5
    assert read(store)["token_ids"] == [5]


def test_a_last_token_that_the_worker_never_learns_is_settled_by_what_was_returned() -> None:
    """Asynchronous scheduling leaves the place-holder of a request's last token as it is."""
    store, output = TraceStore(4), list[int]()
    for token in (5, 7):
        store.record(record([5, 7]), [row(output)])
        output.append(token if token == 5 else -1)
    assert read(store)["dropped"] == [pytest.approx(0.1)], "without help the last one is unknown"
    found = read(store, 1, told=[7])
    assert found["token_ids"] == [7] and found["advantages"] == [[1.0]]
    assert read(store, 0, told=[5, 7])["advantages"] == [[-1.0], [1.0]]


def test_no_more_is_told_than_was_asked_for() -> None:
    store, output = TraceStore(4), list[int]()
    for token in (5, 6, 7, 5):
        store.record(record([5, 6, 7]), [row(output)])
        output.append(token)
    found = read(store, 1, told=[6, 7])
    assert found["from"] == 1 and found["token_ids"] == [6, 7] and len(found["kl"]) == len(found["fell_back"]) == 2


def test_steps_of_any_width_settle_together_and_in_order() -> None:
    """Steps wait until a few of them are settled at once: rows, steps and widths must not be crossed."""
    store, outputs = TraceStore(4), {name: list[int]() for name in "gh"}
    steps = 2 * SETTLE_STEPS + 3
    for step in range(steps):
        wide = [10 * step, 10 * step + 1, *range(step % 3)]
        rows = [row(output, name, index=i) for i, (name, output) in enumerate(outputs.items())]
        names = "gh" if step % 4 else "g"
        store.record(record(wide, [step, step + 2], mark=step), rows[: len(names)])
        outputs["g"].append(10 * step + 1)
        outputs["h"].append(step + 2)
    expected = [10 * step + 1 - sum([20 * step + 1, *range(step % 3)]) / (2 + step % 3) for step in range(steps)]
    assert read(store)["dropped"] == list(range(steps))
    assert [value for (value,) in read(store)["advantages"]] == [pytest.approx(v, abs=1e-3) for v in expected]
    other = store.read({"h": {}})["h"]["0:0"]
    assert other["dropped"] == [step if step % 4 else 0.0 for step in range(1 + max(s for s in range(steps) if s % 4))]
    assert {a and a[0] for a in other["advantages"]} == {None, 1.0}


def test_what_waits_is_worked_out_after_some_steps_or_many_rows() -> None:
    few, many = Backlog(), Backlog()
    assert [few.is_full(1) for _ in range(2 * SETTLE_STEPS)].count(True) == 2
    assert [many.is_full(SETTLE_ROWS // 3) for _ in range(8)] == [False, False, False, True] * 2


def test_a_step_that_fell_back_says_so() -> None:
    store, output = TraceStore(4), list[int]()
    for scored in (True, False):
        store.record(record([5], scored=scored), [row(output)])
        output.append(5)
    assert read(store)["fell_back"] == [False, True] and not read(store)["is_aborted"]


def test_scoring_a_position_again_replaces_it() -> None:
    store, output = TraceStore(4), list[int]()
    store.record(record([5], mark=0.25), [row(output)])
    store.record(record([5], mark=0.5), [row(output)])
    output.append(5)
    assert read(store)["dropped"] == [0.5]


def test_a_resumed_request_goes_on_in_a_new_list() -> None:
    store, output = TraceStore(4), list[int]()
    store.record(record([5], mark=0.25), [row(output)])
    output.append(5)
    store.record(record([6]), [row(output)])
    resumed = [5]
    store.record(record([6], mark=0.5), [row(resumed)])
    resumed.append(6)
    assert read(store)["token_ids"] == [5, 6] and read(store)["dropped"] == [0.25, 0.5]


def test_unscored_steps_and_tokens_outside_the_candidates_have_no_values() -> None:
    store, output = TraceStore(4), list[int]()
    store.record(record([3, 4], scored=False), [row(output)])
    output.append(3)
    store.record(record([5], mark=0.5), [row(output)])
    output.append(0)
    found = read(store)
    assert found["kl"] == found["log_ratios"] == [0.0, 0.0], "the first was not tilted, the second had no choice"
    assert found["advantages"] == [None, None] and found["levels"] == [None, None]
    assert found["fell_back"] == [True, False] and found["dropped"] == [pytest.approx(0.1), 0.5]


def test_scoring_without_levels_leaves_them_out() -> None:
    store, output = TraceStore(4), list[int]()
    store.record(record([5, 7], levels=False), [row(output)])
    output.append(5)
    assert read(store)["advantages"] == [[-1.0]] and read(store)["levels"] == [None]


def test_candidates_are_kept_only_when_asked_for() -> None:
    store, output = TraceStore(4), list[int]()
    store.record(record([5, 6], [1, 2, 3]), [row(output, detail="candidates"), row([], "h", index=1)])
    output.append(6)
    (packed,) = read(store)["candidates"]
    table = CandidateColumns(*packed).unpack()
    assert [c.token_id for c in table] == [5, 6] and [c.advantages for c in table] == [(-0.5,), (0.5,)]
    assert [c.logprob for c in table] == [pytest.approx(-math.log(2))] * 2
    assert table[1].tilted_logprob - table[0].tilted_logprob == pytest.approx(0.1, abs=1e-6)
    assert read(store)["log_ratios"] == [pytest.approx(table[1].tilted_logprob - table[1].logprob, abs=1e-6)]
    assert sum(map(len, packed)) == 2 * (4 + 3 * 4), "numbers take the bytes of numbers"
    assert "candidates" not in store.read({"h": {}})["h"]["0:0"]


def test_the_store_is_bounded_and_drops_on_request() -> None:
    store = TraceStore(2)
    for name in "abc":
        store.record(record([1]), [row([], name)])
    assert store.read({"a": {}, "b": {}, "c": {}}).keys() == {"b", "c"}
    store.drop(["b", "unknown"])
    assert store.read({"b": {}}) == {}


def test_rows_of_no_generation_leave_nothing() -> None:
    store = TraceStore(2)
    store.record(record([1]), [row([], "")])
    assert store.read({"": {}}) == {}


def weighted(output: list[int], weight: float) -> Row:
    guidance = ResolvedGuidance((weight,), 1.0, 4, None, "exact", "values", (weight,), (0.0,))
    return Row(0, "g", "g", ChoiceName(0, 0), guidance, 1.0, [1], output)


def test_every_token_knows_the_weights_it_was_sampled_with() -> None:
    store, output = TraceStore(4), list[int]()
    for token, weight in enumerate((1.0, 1.0, -1.0, 0.5, 0.5)):
        store.record(record([token]), [weighted(output, weight)])
        output.append(token)
    assert read(store)["settings"] == [[0, [1.0], 1.0, None], [2, [-1.0], 1.0, None], [3, [0.5], 1.0, None]]
    assert read(store, 2)["settings"] == [[2, [-1.0], 1.0, None], [3, [0.5], 1.0, None]]
    assert read(store, 4)["settings"] == [[3, [0.5], 1.0, None]]


def test_a_position_that_is_scored_again_was_sampled_with_the_newer_weights() -> None:
    store, output = TraceStore(4), list[int]()
    for weight in (1.0, -1.0, 0.5):
        store.record(record([5]), [weighted(output, weight)])
    output.append(5)
    assert read(store)["settings"] == [[0, [0.5], 1.0, None]]
