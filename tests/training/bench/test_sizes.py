"""How many GPUs so many people need, against figures worked out by hand."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.bench import bench
from training.bench.roofline import BASES, DEVICES, TRUNKS, Load, base_step, exact_step
from training.bench.sizes import Demand, gpus_of_an_engine, page, table, tokens_per_s

LOAD = Load(rows=128, context=1000, candidates=40, objectives=5)
DEMAND = Demand(answers=20, tokens=300, peak=5, reached=0.5)
L4, A100, H100 = DEVICES
SMALL, LARGE = BASES


def test_demand_is_a_day_s_tokens_at_the_busiest_hour() -> None:
    assert DEMAND.tokens_per_s(1_000_000) == pytest.approx(1e6 * 6000 / 86_400 * 5)


def test_a_base_is_split_over_as_few_gpus_as_hold_it() -> None:
    """70B in bfloat16: 140 GB of weights, and 128 rows of 1,000 tokens at 0.33 MB."""
    assert gpus_of_an_engine(H100, SMALL, LOAD) == 1
    assert gpus_of_an_engine(H100, LARGE, LOAD) == 4 and gpus_of_an_engine(L4, LARGE, LOAD) == 16
    assert gpus_of_an_engine(H100, LARGE, Load(1, 10, 40, 5)) == 2, "141 GB and twice 1 GB, in twice 72 GB"


def test_every_gpu_of_an_engine_does_all_of_the_value_models_work() -> None:
    speeds = tokens_per_s(H100, LARGE, LOAD)
    plain = H100.ms(base_step(LARGE, LOAD)) / 4
    exact = plain + H100.ms(exact_step(LARGE, TRUNKS[0], LOAD))
    assert speeds["plain"] == pytest.approx(128e3 / plain)
    assert speeds[f"exact, {TRUNKS[0].name}"] == pytest.approx(128e3 / exact)
    assert list(speeds.values()) == sorted(speeds.values(), reverse=True)


def test_engines_are_whole_and_hours_follow_from_the_speed() -> None:
    lines = [line.strip("| ").split(" | ") for line in table(H100, LARGE, LOAD, DEMAND).splitlines()]
    assert lines[2][0] == "1,000" and lines[2][2] == "4", "one engine is enough for a thousand"
    plain = tokens_per_s(H100, LARGE, LOAD)["plain"] * DEMAND.reached
    assert int(lines[5][2].replace(",", "")) == 4 * -(-DEMAND.tokens_per_s(1_000_000) // plain)
    assert float(lines[6][2]) == pytest.approx(4e6 / plain / 3600, abs=5e-4)


def test_the_page_that_ships_is_the_commands(tmp_path: Path) -> None:
    out = tmp_path / "sizes.md"
    assert CliRunner().invoke(bench.app, ["sizes", "--out", str(out)]).exit_code == 0
    shipped = Path(__file__).parents[3] / "docs" / "evaluation" / "sizes.md"
    assert out.read_text() == shipped.read_text() == page(LOAD, DEMAND)
    assert "not measured" in out.read_text()
