"""Figures become tables and a plot; what has not been measured is left out."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from training.bench import bench

RATIO = {"value": 0.98, "low": 0.95, "high": 1.01}
THRIFT = {"value": 0.7, "low": 0.6, "high": 0.8}


def comparison(what: str, rows: int) -> dict[str, Any]:
    return {"what": what, "rows": rows, "ratio": RATIO}


def side(name: str, reference: str, load: str, ratio: Any) -> dict[str, Any]:
    figures = {
        "tokens_per_s": 12.34,
        "first_p50": 10.4,
        "first_p99": 20.0,
        "gap_p50": 5.0,
        "gap_p99": 1234.5,
        "gap_max": 2000,
    }
    ratios = {"ratio": ratio, "cpu_ratio": THRIFT if reference else None}
    return {"load": load, "side": name, "reference": reference, **ratios, **figures}


def by_a_tool() -> dict[str, Any]:
    latencies = {"p50": 10.4, "p95": 20.0, "p99": 30.0}
    figures = {"tool": "a tool", "side": "fast", "first": latencies, "gap": latencies, "tokens_per_s": 12.34}
    figures |= {"good_per_s": 0.456, "first_ratio": RATIO, "gap_ratio": RATIO}
    about = {"requests": 48, "max_tokens": 32, "rate": 1.234, "first_ms": 2000, "next_ms": 200}
    return {**about, "figures": [figures]}


def test_every_figure_is_in_a_table_and_a_plot_is_drawn(tmp_path: Path) -> None:
    names = ("no weights / plain vLLM", "fast / no weights")
    engine = {"comparisons": [comparison(what, rows) for rows in (1, 8) for what in names]}
    engine["comparisons"].append(comparison("fast, own weights in every row / fast", 8))
    loads = [side("plain vLLM", "", "8 at once", None), side("no weights", "plain vLLM", "8 at once", RATIO)]
    loads.append(side("fast", "no weights", "Poisson, 2 requests/s", None))
    http = {"servers": {"mavis": {"start_s": 9.6, "memory_gib": 2.345}}, "figures": loads}
    shape = {"rows": 8, "candidates": 40, "context": 100, "objectives": 2}
    step = {"steps": [{"shape": shape, "step": 12.0, "matmuls": 10.0, "over_limit": 1.2}]}
    change = {"changes": 320, "p50_ms": 20.4, "p95_ms": 61, "max_ms": 99, "within_two": 0.998}
    live = {
        "streams": 16,
        "recording_ms": 0.05,
        "changes": {"changed, 32 streams": change},
        "figures": [{"side": "guided", "tokens_per_s": 320, "ratio": RATIO, "cpu_ratio": RATIO}],
    }
    written = {"engine": engine, "http": http, "live": live, "tools": by_a_tool(), "step": step}
    for name, figures in written.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(figures))
    result = CliRunner().invoke(bench.app, ["report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "speed.md").read_text()
    for line in (
        "| batch | no weights / plain vLLM | fast / no weights | fast, own weights in every row / fast |",
        "| 1 | 0.98 (0.95 to 1.01) | 0.98 (0.95 to 1.01) |  |",
        "| 8 at once | no weights | plain vLLM | 12.3 | 0.98 (0.95 to 1.01) "
        "| 0.70 (0.60 to 0.80) | 10 | 20 | 5 | 1234 | 2000 |",
        "| Poisson, 2 requests/s | fast | no weights | 12.3 |  | 0.70 (0.60 to 0.80) | 10 | 20 | 5 | 1234 | 2000 |",
        "| mavis | 10 | 2.35 |",
        "| 8 | 40 | 100 | 2 | 12.0 | 10.0 | 1.20 |",
        "| guided | 320.0 | 0.98 (0.95 to 1.01) | 0.98 (0.95 to 1.01) |",
        "Noting a step for totals takes 0.05 ms of 50.0 ms: 0.10%.",
        "| changed, 32 streams | 320 | 20 | 61 | 99 | 99.8% |",
        "48 requests of 32 tokens, 1.2 a second, Poisson. "
        "Good: first token within 2000 ms, the others within 200 on average.",
        "| a tool | fast | 10 | 20 | 30 | 0.98 (0.95 to 1.01) | 10 | 20 | 30 | 0.98 (0.95 to 1.01) | 12.3 | 0.46 |",
    ):
        assert line in text.splitlines(), line
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_not_there_is_left_out_and_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(bench.app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "engine.json, http.json, live.json, tools.json, step.json" in " ".join(result.output.split())
    (tmp_path / "engine.json").write_text(json.dumps({"comparisons": [comparison("fast / no weights", 1)]}))
    assert CliRunner().invoke(bench.app, ["report", str(tmp_path)]).exit_code == 0
    assert "Over HTTP" not in (tmp_path / "speed.md").read_text()
