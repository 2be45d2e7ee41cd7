"""`mavis bench report`: the measured figures as tables and as a plot.

    mavis bench report docs/evaluation/embedded

Reads what `mavis bench`, `mavis bench http`, `live`, `tools` and `step` have written into a folder (engine.json,
http.json, live.json, tools.json, step.json; what is missing is left out) and writes speed.md and speed.png beside it.
Must not import torch or vllm.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from training.bench.sides import NO_WEIGHTS, PLAIN
from training.errors import MeasurementError
from training.runs.command import errors_in_one_sentence
from training.runs.progress import console

ENGINE, HTTP, LIVE, BY_TOOLS, STEP = "engine.json", "http.json", "live.json", "tools.json", "step.json"
TABLES, PLOT = "speed.md", "speed.png"
Figures = Mapping[str, Any]


def bench_report(
    folder: Annotated[Path, typer.Argument(help="Where engine.json, http.json and the like lie.")],
) -> None:
    """Write speed.md and speed.png from the figures in a folder."""
    with errors_in_one_sentence():
        found = {name: json.loads((folder / name).read_text()) for name in WRITERS if (folder / name).exists()}
        if not found:
            raise MeasurementError(f"{folder} holds none of {', '.join(WRITERS)}; run `mavis bench` with --out first")
        (folder / TABLES).write_text("\n".join(WRITERS[name](figures) for name, figures in found.items()))
        plot(found, folder / PLOT)
        console.print(f"written to {folder / TABLES} and {folder / PLOT}", soft_wrap=True)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def engine_tables(figures: Figures) -> str:
    """Ratios of tokens a second in the engine, one column a comparison."""
    by_batch: dict[int, dict[str, str]] = {}
    for each in figures["comparisons"]:
        by_batch.setdefault(each["rows"], {})[each["what"]] = shown(each["ratio"])
    names = list(dict.fromkeys(each["what"] for each in figures["comparisons"]))
    rows = [[batch, *(ratios.get(name, "") for name in names)] for batch, ratios in by_batch.items()]
    return "## In the engine: tokens a second, ratios of pairs\n\n" + table(["batch", *names], rows)


def http_tables(figures: Figures) -> str:
    """Every load's sides, and what the servers take."""
    header = ["load", "side", "to", "tok/s", "ratio", "a second of processor time, ratio"]
    header += ["first token, ms", "p99", "next token, ms", "p99", "longest"]
    rows = [
        [
            each["load"],
            each["side"],
            each["reference"],
            f"{each['tokens_per_s']:.1f}",
            *(shown(each[ratio]) for ratio in ("ratio", "cpu_ratio")),
            *(f"{each[name]:.0f}" for name in ("first_p50", "first_p99", "gap_p50", "gap_p99", "gap_max")),
        ]
        for each in figures["figures"]
    ]
    servers = [[name, f"{s['start_s']:.0f}", f"{s['memory_gib']:.2f}"] for name, s in figures["servers"].items()]
    return "\n".join(
        [
            "## Over HTTP\n",
            table(header, rows),
            table(["server", "first answer after, s", "memory, GiB"], servers),
        ]
    )


def live_tables(figures: Figures) -> str:
    """What reading and changing costs, and the latencies of changes."""
    sides = [
        [each["side"], f"{each['tokens_per_s']:.1f}", shown(each["ratio"]), shown(each["cpu_ratio"])]
        for each in figures["figures"]
    ]
    changes = [
        [
            name,
            f"{c['changes']:.0f}",
            *(f"{c[key]:.0f}" for key in ("p50_ms", "p95_ms", "max_ms")),
            f"{c['within_two']:.1%}",
        ]
        for name, c in figures["changes"].items()
    ]
    guided_ms = 1000 * figures["streams"] / figures["figures"][0]["tokens_per_s"]
    noted_ms = figures["recording_ms"]
    header = ["streams", "changes", "answered after, ms", "p95", "longest", "hold at most 2 tokens later"]
    return "\n".join(
        [
            f"## Read and changed while they are written: {figures['streams']} streams\n",
            table(["side", "tok/s", "ratio", "a second of processor time, ratio"], sides),
            f"Noting a step for totals takes {noted_ms:.2f} ms of {guided_ms:.1f} ms: {noted_ms / guided_ms:.2%}.\n",
            table(header, changes),
        ]
    )


def tool_tables(figures: Figures) -> str:
    """What load generators of others have found."""
    header = ["tool", "side", "first token, ms", "p95", "p99", "to plain vLLM"]
    header += ["next token, ms", "p95", "p99", "to plain vLLM", "tok/s", "good requests/s"]
    rows = [
        [
            *(each["tool"], each["side"]),
            *(f"{each['first'][share]:.0f}" for share in ("p50", "p95", "p99")),
            shown(each["first_ratio"]),
            *(f"{each['gap'][share]:.0f}" for share in ("p50", "p95", "p99")),
            *(shown(each["gap_ratio"]), f"{each['tokens_per_s']:.1f}", f"{each['good_per_s']:.2f}"),
        ]
        for each in figures["figures"]
    ]
    asked = f"{figures['requests']} requests of {figures['max_tokens']} tokens, {figures['rate']:.2g} a second, Poisson"
    good = f"first token within {figures['first_ms']:g} ms, the others within {figures['next_ms']:g} on average"
    return "\n".join(["## By load generators of others\n", f"{asked}. Good: {good}.\n", table(header, rows)])


def step_tables(figures: Figures) -> str:
    """Steps of exact scoring beside their matrix products."""
    header = ["rows", "candidates", "context", "objectives", "step, ms", "matrix products alone, ms", "ratio"]
    rows = [
        [*each["shape"].values(), f"{each['step']:.1f}", f"{each['matmuls']:.1f}", f"{each['over_limit']:.2f}"]
        for each in figures["steps"]
    ]
    return "## One step of exact scoring\n\n" + table(header, rows)


def shown(ratio: Mapping[str, float] | None) -> str:
    """A ratio with its interval."""
    return "" if ratio is None else f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


WRITERS: Mapping[str, Callable[[Figures], str]] = {
    ENGINE: engine_tables,
    HTTP: http_tables,
    LIVE: live_tables,
    BY_TOOLS: tool_tables,
    STEP: step_tables,
}


def plot(found: Mapping[str, Figures], path: Path) -> None:
    """Panels: speed by batch in the engine and over HTTP, and a step beside its limit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = {name: figures for name, figures in found.items() if name not in (LIVE, BY_TOOLS)}
    panels = max(1, len(drawn))
    figure, axes = pyplot.subplots(1, panels, figsize=(5.5 * panels, 4.8), squeeze=False, layout="constrained")
    for (name, figures), axis in zip(drawn.items(), axes[0], strict=False):
        if name == STEP:
            _plot_steps(axis, figures)
        else:
            _plot_speed(axis, "in the engine" if name == ENGINE else "over HTTP", _lines(name, figures))
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _lines(name: str, figures: Figures) -> dict[str, list[tuple[int, Mapping[str, float]]]]:
    """Side -> batch and ratio, of the sides measured against no weights, and of no weights against plain vLLM."""
    lines: dict[str, list[tuple[int, Mapping[str, float]]]] = {}
    if name == ENGINE:
        entries = [(each["what"], each["rows"], each["ratio"]) for each in figures["comparisons"]]
    else:
        timed = [each for each in figures["figures"] if each["ratio"]]
        entries = [(f"{e['side']} / {e['reference']}", int(e["load"].split()[0]), e["ratio"]) for e in timed]
    for what, rows, ratio in entries:
        if what.endswith((f"/ {NO_WEIGHTS}", f"/ {PLAIN}")):
            lines.setdefault(what, []).append((rows, ratio))
    return lines


def _plot_speed(axis: Any, where: str, lines: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]]) -> None:
    for what, points in lines.items():
        rows, values = [rows for rows, _ in points], [ratio["value"] for _, ratio in points]
        below = [ratio["value"] - ratio["low"] for _, ratio in points]
        above = [ratio["high"] - ratio["value"] for _, ratio in points]
        axis.errorbar(rows, values, yerr=[below, above], marker="o", capsize=3, label=what)
    ticks = sorted({rows for points in lines.values() for rows, _ in points})
    axis.set(title=f"tokens a second {where}", xlabel="streams at once", ylabel="ratio", xscale="log", ylim=(0, None))
    axis.set_xticks(ticks, [str(rows) for rows in ticks])
    axis.minorticks_off()
    axis.axhline(1.0, color="grey", linewidth=0.8)
    axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def _plot_steps(axis: Any, figures: Figures) -> None:
    steps = figures["steps"]
    names = ["{rows} x {candidates}, {context}, {objectives}".format(**each["shape"]) for each in steps]
    places = range(len(steps))
    axis.barh(places, [each["step"] for each in steps], label="step of exact scoring")
    axis.barh(places, [each["matmuls"] for each in steps], height=0.4, label="its matrix products alone")
    axis.set(title="rows x candidates, context, objectives", xlabel="ms", xscale="log")
    axis.set_yticks(places, names, fontsize="small")
    axis.invert_yaxis()
    axis.legend(fontsize="small")
