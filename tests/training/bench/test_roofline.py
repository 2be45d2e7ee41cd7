"""What is computed of GPUs, against figures worked out by hand."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.bench import bench
from training.bench.roofline import (
    BASES,
    DEVICES,
    TRUNKS,
    Decoder,
    Device,
    Load,
    Work,
    base_step,
    exact_step,
    fast_step,
)

TINY = Decoder("tiny", layers=2, hidden=4, intermediate=8, heads=2, kv_heads=1, head_dim=2, vocabulary=10)
LOAD = Load(rows=3, context=5, candidates=7, objectives=2)


def test_work_is_counted_as_by_hand() -> None:
    # a layer: q and o 4 x 4 each, k and v 4 x 2 each, three of 4 x 8
    assert TINY.parameters == 2 * (16 + 16 + 8 + 8 + 96)
    found = base_step(TINY, LOAD)
    kv = 3 * 5 * 2 * 2 * 1 * 2
    assert found.bytes == 2 * (288 + kv) + 2 * 40 + 4 * 3 * 10
    assert found.flops == 2 * 288 * 3 + 4 * 3 * 5 * 2 * 2 * 2 + 2 * 40 * 3
    exact = exact_step(TINY, TINY, LOAD)
    assert exact.flops == 2 * 288 * 3 * 8 + 4 * 3 * 8 * 5 * 2 * 2 * 2
    weights = 4 * 512 + 512 * 2 * 128
    assert fast_step(TINY, LOAD).bytes == 3 * 4 * 3 * 10 + 4 * (weights + 3 * 7 * 130)


def test_a_step_is_bound_by_memory_or_by_arithmetic() -> None:
    device = Device("d", memory=1.0, arithmetic=2.0)
    assert device.ms(Work(1e9, 1.0)) == pytest.approx(1.0)
    assert device.ms(Work(1.0, 1e9)) == pytest.approx(0.5)


def test_shapes_are_those_of_the_models_they_are_named_after() -> None:
    assert [round(each.parameters / 1e9, 2) for each in (*BASES, *TRUNKS)] == [6.98, 68.45, 0.11, 0.36]


def test_fast_scoring_costs_next_to_nothing_and_exact_scoring_more_with_every_row() -> None:
    for device in DEVICES:
        for base in BASES:
            loads = [Load(rows, 1000, 40, 5) for rows in (1, 32, 256)]
            plain = [device.ms(base_step(base, load)) for load in loads]
            fast = [device.ms(fast_step(base, load)) for load in loads]
            exact = [device.ms(exact_step(base, TRUNKS[0], load)) for load in loads]
            assert all(more / whole < 0.03 for more, whole in zip(fast, plain, strict=True))
            assert exact == sorted(exact) and exact[-1] > fast[-1]


def test_the_page_says_that_nothing_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    result = CliRunner().invoke(bench.app, ["roofline", "--rows", "4", "--out", str(out)])
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "computed, not measured" in text and text.count("| 4 |") == len(DEVICES) * len(BASES)
