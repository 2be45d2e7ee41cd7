"""The documents' figures: every one of them is read from what was measured."""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import filterfalse
from typing import Any

import pytest

from tests.house.told import ROOT, between, shown, text

RESULTS = "docs/results.md"
EVALUATION = "valuemodels/checkpoints/embedded/evaluation.json"
SECOND = {
    "positivity": "Polarity",
    "simplicity": "ReadingEase",
    "curiosity": "AskingSentences",
    "conciseness": "FewCharacters",
    "helpfulness": "SharedWords",
    "harmlessness": "UnlikeInsults",
}
"""Objective -> the class of `training/rewards/second.py` that has another measure for it."""
TILTS = ("5", "10", "20", "", "112", "256")
"""Numbers of candidates; the server's default has none in its method's name."""


def test_the_table_of_turns_is_what_was_measured() -> None:
    measured = json.loads((ROOT / "docs" / "evaluation" / "embedded" / "flip.json").read_text(encoding="utf-8"))
    page = text("docs/steer.md")
    for row in measured["rows"]:
        halves = [row["first"], row["second"]]
        told = " | ".join(f"{half['value']:+.2f} [{half['low']:+.2f}, {half['high']:+.2f}]" for half in halves)
        assert f"| {row['course']} | {told} | {row['kl_nats']['value']:.1f} |" in page


def slider_lines(measured: dict[str, Any]) -> Iterator[str]:
    """The README's table of what each slider does, a line a slider."""
    rows = {tuple(row["setting"]["weights"].items()): row for row in measured["rows"]}
    for slider in measured["sliders"]:
        name = slider["objective"]
        shifts = [rows[(name, weight),]["objectives"][name]["shift"] for weight in (-1.0, -0.5, 0.5, 1.0)]
        cost = f"{rows[(name, 1.0),]['kl_nats']['value']:.1f}"
        follows = [slider["follows"][key] for key in (name, f"training.rewards.second:{SECOND[name]}")]
        yield f"| {' | '.join([name, *map(shown, shifts), cost, shown(slider['gain']), *map(between, follows)])} |"


def effect_lines(measured: dict[str, Any]) -> Iterator[str]:
    """The README's table of what each slider does to all rewards, a line a slider."""
    names = [slider["objective"] for slider in measured["sliders"]]
    for slider in measured["sliders"]:
        effects = " | ".join(f"{slider['effects'][name]['value']:+.2f}" for name in names)
        yield f"| {slider['objective']} +1 | {effects} |"


@pytest.mark.parametrize("lines", [slider_lines, effect_lines])
def test_readme_says_of_the_sliders_what_was_measured(lines: Callable[[dict[str, Any]], Iterator[str]]) -> None:
    measured = json.loads((ROOT / EVALUATION).read_text(encoding="utf-8"))
    config = json.loads((ROOT / EVALUATION).with_name("value_config.json").read_text(encoding="utf-8"))
    assert measured["checkpoint"] == config["id"], "it was trained again since"
    found = list(lines(measured))
    assert len(found) == len(config["objectives"])
    for line in found:
        assert line in text("README.md")


def test_pages_compare_the_scorings_as_was_measured() -> None:
    measured = json.loads((ROOT / "docs" / "evaluation" / "embedded" / "compare.json").read_text(encoding="utf-8"))
    for row in measured["rows"]:
        weights = ", ".join(f"{name} {weight:+g}" for name, weight in row["setting"]["weights"].items())
        label = weights if len(row["setting"]["weights"]) == 1 else "all at +0.5"
        gains = [row["exact_gain"], row["fast_gain"], row["ratio"]]
        told = " | ".join(map(between, gains))
        assert f"| {label} | {row['kl_nats']['value']:.1f} | {told} |" in text(RESULTS)
        more = row["ratio"]["low"] > 1
        assert more == (label != "conciseness +1"), "README and docs/results.md say where fast gains more"


def test_sliders_stand_beside_the_best_policies_as_was_measured() -> None:
    measured = json.loads((ROOT / "docs/evaluation/embedded/optimum.json").read_text(encoding="utf-8"))
    page = text("docs/train.md")
    for row in measured["rows"]:
        near = row["near"]
        told = " | ".join(shown(near[key]) for key in ("gain", "best", "share"))
        label = f"{row['objective']} {row['weight']:+g}"
        assert f"| {label} | {near['kl_nats']['value']:.2f} | {told} | {near['effective']:.0f} |" in page


def test_training_page_says_what_depth_and_replies_do_as_was_measured() -> None:
    measured = json.loads((ROOT / "docs/evaluation/embedded/ablations.json").read_text(encoding="utf-8"))
    page = text("docs/train.md")
    for row in measured["rows"]:
        shares = [f"{share['value']:.2f}" for name, share in row["explained"].items() if name != "mean"]
        ahead = "" if row["ahead"] is None else shown(row["ahead"]["mean"])
        told = [row["variant"], *shares, shown(row["explained"]["mean"]), ahead]
        assert f"| {' | '.join(told)} |" in page


def front_report(name: str) -> Any:
    return json.loads((ROOT / f"docs/evaluation/embedded/{name}/report.json").read_text(encoding="utf-8"))


def called(group: dict[str, Any]) -> str:
    """A group's name in the tables."""
    of_all = " + ".join(group["objectives"])
    return f"{of_all}, equally" if is_one_mix(group) else of_all


def is_one_mix(group: dict[str, Any]) -> bool:
    return len(group["methods"][0]["points"]) == 1


def costs(method: dict[str, Any]) -> list[str]:
    return [f"{method['kl_nats']['value']:.1f}", f"{method['perplexity']:.1f}"]


def methods(group: dict[str, Any]) -> dict[str, Any]:
    return {each["method"]: each for each in group["methods"]}


def front_lines(groups: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A table of what can be had together, a line for each method on each group of objectives."""
    for group in groups:
        for each in group["methods"]:
            measured = [between(each["hypervolume"]), between(each["mip"]), *costs(each), f"{each['passes']:g}"]
            yield f"| {' | '.join([called(group), each['method'], *measured])} |"


def matched_lines(report: dict[str, Any]) -> Iterator[str]:
    """A table of what is had for no more than another method costs, a line for each of those that some tilt matches."""
    for group in report["groups"]:
        by_name = methods(group)
        for name, each in by_name.items():
            if (matched := each["matched"]) is not None:
                ahead = [between(matched[key]) for key in ("hypervolume_ahead", "mip_ahead")]
                cells = [called(group), name, *costs(each)]
                cells += [matched["method"], *costs(by_name[matched["method"]]), *ahead]
                yield f"| {' | '.join(cells)} |"


def test_pages_say_what_more_candidates_buy_as_was_measured() -> None:
    lines = list(front_lines(front_report("candidates")["groups"]))
    for count in TILTS:
        name = "tilted, fast" + (f", {count} candidates" if count else "")
        (line,) = (line for line in lines if f"| {name} |" in line)
        assert line in text(RESULTS)


@pytest.mark.parametrize("name", ["experts", "front"])
def test_pages_say_what_can_be_had_together_as_was_measured(name: str) -> None:
    groups = [group for group in front_report(name)["groups"] if "prompted" in methods(group)]
    lines = [line for line in front_lines(groups) if "| base |" not in line]
    for method in ("best of 16", *(("rewarded soup", "MOD") if name == "experts" else ())):
        assert sum(f"| {method} |" in line for line in lines) == len(groups) >= 3
    for line in lines:
        assert line in text(RESULTS)


def test_page_says_how_tilting_stands_beside_the_best_of_many_on_all_pairs_as_was_measured() -> None:
    pairs = [group for group in front_report("front")["groups"] if len(group["objectives"]) == 2]
    assert len(pairs) == 15
    page, readme = (" ".join(text(path).split()) for path in (RESULTS, "README.md"))
    for method in ("best of 4", "best of 16"):
        stands = {called(group): standing(methods(group)[method]) for group in pairs}
        counts = [list(stands.values()).count(lead) for lead in (1, 0, -1)]
        assert f"| the {method} | {' | '.join(map(str, counts))} |" in page
    ahead, neither, behind = counts
    assert f"ahead on {ahead} of the 15 pairs of sliders, not told apart on {neither}, and behind on {behind}" in readme
    assert {name for name, lead in stands.items() if lead < 0} > {name for name in stands if "helpfulness" in name}


def standing(other: dict[str, Any]) -> int:
    """Of the tilt beside another method: 1 ahead in both measures, -1 behind in both, else 0."""
    ahead = [other[key] for key in ("hypervolume_ahead", "mip_ahead")]
    return all(each["low"] > 0 for each in ahead) - all(each["high"] < 0 for each in ahead)


def test_pages_say_what_is_had_for_no_more_cost_as_was_measured() -> None:
    lines = list(matched_lines(front_report("experts")))
    for method in ("rewarded soup", "MOD"):
        assert any(f"| {method} |" in line for line in lines)
    for line in lines:
        assert line in text(RESULTS)
        assert line in text("README.md") or "| prompted |" in line or ", equally |" in line


def test_where_tilting_is_said_to_be_ahead_of_experts_the_intervals_lie_apart() -> None:
    for group in filterfalse(is_one_mix, front_report("experts")["groups"]):
        by_name = methods(group)
        for name in ("rewarded soup", "MOD"):
            other, ours = by_name[name], by_name[by_name[name]["matched"]["method"]]
            apart = all(ours[key]["low"] > other[key]["high"] for key in ("hypervolume", "mip"))
            assert apart == (group["objectives"] != ["positivity", "curiosity"]), "README and docs/results.md say which"


def test_page_says_whether_asking_is_matched_as_was_measured() -> None:
    groups = {called(group): methods(group) for group in front_report("front")["groups"]}
    asked_of = {name: by_name["prompted"] for name, by_name in groups.items() if "prompted" in by_name}
    assert len(asked_of) == 3 and all(each["hypervolume_ahead"]["low"] > 0 for each in asked_of.values())
    by_name = groups["positivity + conciseness"]
    asked, best = by_name["prompted"], by_name["best of 16"]
    assert asked["hypervolume_ahead"]["low"] > 0 and asked["matched"]["method"] == "tilted, fast"
    assert asked["mip_ahead"]["low"] < 0 < asked["mip_ahead"]["high"], "docs/results.md says that it is not told apart"
    assert best["hypervolume_ahead"]["low"] > 0 and best["mip_ahead"]["low"] > 0


def test_page_says_what_the_experts_have_learned_as_was_measured() -> None:
    *learned, (_, of_mix) = front_report("experts")["experts"].items()
    gains = [between(each["shift"]) for _, each in learned]
    nats = [f"{each['kl_nats']['value']:.1f}" for _, each in learned]
    told = f"the experts of {listed(name for name, _ in learned)} gain {listed(gains)} at {listed(nats)} nats"
    page = " ".join(text(RESULTS).split())
    assert told in page
    assert f"gains {between(of_mix['shift'])} of the mix at {of_mix['kl_nats']['value']:.1f} nats" in page


def test_page_says_how_tilting_stands_beside_an_expert_of_the_mix_as_was_measured() -> None:
    (group,) = filter(is_one_mix, front_report("experts")["groups"])
    by_name = methods(group)
    assert by_name["rewarded soup"]["matched"] is by_name["MOD"]["matched"] is None
    matched = by_name["expert of the mix"]["matched"]
    for ahead in ("hypervolume_ahead", "mip_ahead"):
        assert matched[ahead]["low"] < 0 < matched[ahead]["high"], "docs/results.md says that it is not told apart"


def listed(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}"
