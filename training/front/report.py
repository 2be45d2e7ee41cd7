"""The figures of a front as Markdown and as a plot. Reads what `report.json` holds, and nothing else."""

from collections.abc import Mapping, Sequence
from math import isnan, sqrt
from pathlib import Path
from typing import Any

from training.statistics.fronts import REFERENCE

TABLES, PLOT = "report.md", "pareto.png"
Figures = Mapping[str, Any]

_ABOUT = """\
Rewards are told as distances from the base's own, the mean of all the replies that were drawn from it to a prompt, in
standard deviations of the base's reward. HV: hypervolume above {reference:g} in every objective. MIP: mean inner
product of shares and rewards. KL: log pi(reply) - log p(reply) over the whole vocabulary, nats a reply, alike for every
method but best of n, which has log n - (n - 1) / n. Perplexity: of the replies, by the base. Passes: tokens that the
base reads or writes for one that a reader gets, prompts aside; exact and hybrid scoring have a trunk of their own read
more. Brackets: 95% intervals over prompts; "ahead" compares on the same draws of prompts. "At no more cost": the tilt
with the highest MIP of those whose KL and perplexity, as the table has them, are both no higher than the other's.
"""


def tables(report: Figures) -> str:
    """The whole report in Markdown."""
    size = f"{report['prompts']} prompts x {report['samples']} samples, at most {report['max_tokens']} tokens, T = 1"
    parts = [
        "# What can be had together\n",
        f"Checkpoint `{report['checkpoint']}`; {size}.\n\n" + _ABOUT.format(reference=REFERENCE),
        *([_experts(learned)] if (learned := report.get("experts")) else []),
        *(_group(group) for group in report["groups"]),
    ]
    return "\n".join(parts)


def verdicts(group: Figures) -> list[str]:
    """For every other method: who is ahead, and at which price; and what is had at no more cost than its own."""
    own = _own(group)
    others = [each for each in group["methods"] if each is not own and each["mip_ahead"]]
    return [_verdict(own, each) + _at_no_more_cost(each) for each in others]


def plot(report: Figures, path: Path) -> None:
    """One panel a pair, each method a line through its mixes; the last panel is gain over the root of the KL."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pairs = [group for group in report["groups"] if len(group["objectives"]) == 2 and not _is_one_mix(group)]
    columns = min(4, len(pairs) + 1)
    rows = -(-(len(pairs) + 1) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4.2 * columns, 4 * rows), squeeze=False, layout="constrained"
    )
    panels, colours = axes.flat, _colours(report)
    for group, panel in zip(pairs, panels, strict=False):
        _draw_pair(panel, group, colours)
    last = panels[len(pairs)]
    for group in report["groups"]:
        _draw_costs(last, group, colours)
    last.set(xlabel="root of KL", ylabel="mean gain of the mix, base std")
    for panel in panels[len(pairs) + 1 :]:
        panel.axis("off")
    known: dict[str, Any] = {}
    for panel in (last, *panels[: len(pairs)]):  # a line tells more than a dot
        known |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    longest_inches = 0.4 + 0.08 * max(map(len, known), default=0)
    across = max(1, int(4.2 * columns / longest_inches))  # what is wider than the figure is cut off
    figure.legend(list(known.values()), list(known), loc="outside lower center", ncols=across)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _experts(learned: Mapping[str, Figures]) -> str:
    header = ["expert of", "gain on unseen prompts", "KL", "preferences", "base's replies", "steps"]
    rows = [
        [name, _shown(each["shift"]), _shown(each["kl_nats"])]
        + [f"{each[count]:g}" for count in ("preferences", "replies", "steps")]
        for name, each in learned.items()
    ]
    return f"## What the experts have learned\n\n{_table(header, rows)}"


def _group(group: Figures) -> str:
    header = ["method", "HV", "HV ahead", "MIP", "MIP ahead", "KL", "perplexity", "distinct-1/2/3", "tokens", "passes"]
    rows = [
        [
            each["method"],
            _shown(each["hypervolume"]),
            _shown(each["hypervolume_ahead"]),
            _shown(each["mip"]),
            _shown(each["mip_ahead"]),
            _shown(each["kl_nats"]),
            f"{each['perplexity']:.2f}",
            " / ".join(f"{share:.2f}" for share in each["distinct"]),
            f"{each['tokens']:.0f}",
            _passes(each),
        ]
        for each in group["methods"]
    ]
    names = group["objectives"]
    title = f"## {', '.join(names[:-1])} and {names[-1]}, {_counted(group)}\n\n"
    sentences = "".join(f"- {sentence}\n" for sentence in verdicts(group))
    return f"{title}{_table(header, rows)}\n{sentences}"


def _is_one_mix(group: Figures) -> bool:
    return len(group["methods"][0]["points"]) == 1


def _counted(group: Figures) -> str:
    points = group["methods"][0]["points"]
    if _is_one_mix(group):
        return "at " + " and ".join(f"{share:.2f}" for share in points[0]["shares"].values())
    return f"{len(points)} mixes"


def _verdict(own: Figures, other: Figures) -> str:
    price = "no more KL" if own["kl_nats"]["value"] <= other["kl_nats"]["value"] else "more KL"
    fluency = "no worse" if own["perplexity"] <= other["perplexity"] else "worse"
    return (
        f"Against {other['method']}, {own['method']} is {_lead(other)}, at {price} and {fluency} perplexity, "
        f"with {_passes(own)} passes to {_passes(other)}."
    )


def _at_no_more_cost(other: Figures) -> str:
    matched = other["matched"]
    if matched is None:
        return ""
    leads = f"by {_shown(matched['hypervolume_ahead'])} and {_shown(matched['mip_ahead'])}"
    return f" At no more cost, {matched['method']} is {_lead(matched)}, {leads}."


def _lead(other: Figures) -> str:
    """Of what is set against a method, by how far it is ahead."""
    found = []
    for what, ahead in (("HV", other["hypervolume_ahead"]), ("MIP", other["mip_ahead"])):
        if ahead["low"] > 0:
            found.append(f"ahead in {what}")
        elif ahead["high"] < 0:
            found.append(f"behind in {what}")
        else:
            found.append(f"not told apart in {what}")
    return " and ".join(found)


def _own(group: Figures) -> Figures:
    """This project's first, which the others are set against."""
    found: Figures = group["methods"][min(1, len(group["methods"]) - 1)]
    return found


def _colours(report: Figures) -> dict[str, str]:
    """Method -> its colour, the same in groups that others answer at, too."""
    names = dict.fromkeys(each["method"] for group in report["groups"] for each in group["methods"])
    return {name: f"C{number}" for number, name in enumerate(names)}


def _draw_pair(panel: Any, group: Figures, colours: Mapping[str, str]) -> None:
    across, up = group["objectives"]
    for each in group["methods"]:
        points = [point["shifts"] for point in each["points"]]
        if each["method"] == "base":
            points = points[:1]
        x, y = ([point[name]["value"] for point in points] for name in (across, up))
        panel.plot(x, y, marker="o", markersize=3, linewidth=1, color=colours[each["method"]], label=each["method"])
    panel.axhline(0, color="0.85", linewidth=0.8, zorder=0)
    panel.axvline(0, color="0.85", linewidth=0.8, zorder=0)
    panel.set(xlabel=across, ylabel=up)


def _draw_costs(panel: Any, group: Figures, colours: Mapping[str, str]) -> None:
    for each in group["methods"]:
        gains = [
            sum(share * point["shifts"][name]["value"] for name, share in point["shares"].items())
            for point in each["points"]
        ]
        roots = [sqrt(max(0.0, point["kl_nats"]["value"])) for point in each["points"]]
        panel.scatter(roots, gains, s=6, color=colours[each["method"]], label=each["method"])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _passes(method: Figures) -> str:
    """In JSON a figure that is no number is null."""
    passes = method["passes"]
    return "more" if passes is None or isnan(passes) else f"{passes:g}"


def _shown(estimate: Figures | None) -> str:
    return "" if estimate is None else f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"
