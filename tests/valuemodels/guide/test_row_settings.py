"""What rows ask for, as tensors: made anew whenever something changed, and only then."""

import dataclasses
from typing import Any

import pytest
import torch

from valuemodels.contract.guidance import ChoiceName, ResolvedGuidance
from valuemodels.guide.row_settings import SettingsOfRows
from valuemodels.scoring.rows import Row


def table() -> SettingsOfRows:
    scales = {"exact": [2.0, 3.0], "fast": [4.0, 5.0]}
    return SettingsOfRows(scales, {"exact": True, "fast": False}, torch.device("cpu"))  # type: ignore[arg-type]


def guidance(strengths: tuple[float, float], **changes: Any) -> ResolvedGuidance:
    asked = ResolvedGuidance(strengths, 1.0, 4, None, "fast", "totals", strengths, (0.0, 0.0))
    return dataclasses.replace(asked, **changes)


def row(index: int, asked: ResolvedGuidance, **changes: Any) -> Row:
    made = Row(index, f"s{index}", f"g{index}", ChoiceName(0, 0), asked, 1.0, [1], [], last_token=2)
    return dataclasses.replace(made, **changes)


def test_settings_are_what_the_rows_ask() -> None:
    asked = [
        guidance((1.0, 0.5)),
        guidance((2.0, 0.0), scoring="exact", kl_budget=0.1, candidates=7, pins=(0.5, 0.0)),
    ]
    found = table().of([row(3, asked[0]), row(5, asked[1], temperature=0.0)])
    assert found.index.tolist() == [3, 5] and found.temperature.tolist() == [1.0, 1.0], "greedy rows are tilted as at 1"
    assert found.free.tolist() == [[4.0, 2.5], [3.0, 0.0]]
    assert found.pinned is not None and found.pinned.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert found.kl_budget is not None and found.kl_budget.tolist() == [float("inf"), pytest.approx(0.1)]
    assert found.counts is not None and found.counts.tolist() == [4, 7] and found.width == 7
    assert found.gives_levels.tolist() == [False, True] and found.places == {"exact": [1], "fast": [0]}
    assert found.last_tokens.tolist() == [2, 2]


def test_rows_that_ask_for_the_same_cost_nothing_anew() -> None:
    settings, asked = table(), guidance((1.0, 0.5))
    first = settings.of([row(0, asked), row(1, asked)])
    assert settings.of([row(0, asked, output=[7]), row(1, asked, output=[8])]) is first


@pytest.mark.parametrize(
    "change",
    [{"index": 4}, {"temperature": 0.5}, {"last_token": 9}, {"guidance": guidance((1.0, 0.6))}],
    ids=["moved", "temperature", "end", "weights"],
)
def test_whatever_changes_is_seen(change: dict[str, Any]) -> None:
    """Would catch a row that is tilted by what another row, or itself, asked for before."""
    settings, asked = table(), guidance((1.0, 0.5))
    before = [row(0, asked), row(1, asked)]
    first = settings.of(before)
    after = [before[0], dataclasses.replace(before[1], **change)]
    found = settings.of(after)
    assert found is not first
    fresh = table().of(after)
    for name in ("index", "free", "temperature", "last_tokens"):
        assert torch.equal(getattr(found, name), getattr(fresh, name))
    assert settings.of(after[:1]).index.tolist() == [0]
