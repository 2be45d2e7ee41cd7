"""What the documents say of speed: every figure is read from what was measured."""

from typing import Any

import pytest

from tests.house.told import between, measured, text

SERVE = "docs/serve.md"
SIDES = ("no weights", "fast", "hybrid", "exact, candidate_min_p 0.01", "exact", "fast, own weights in every row")
BY_TOOLS = ("no weights", "fast", "hybrid", "exact")


def sides(load: str) -> dict[str, Any]:
    return {each["side"]: each for each in measured("http.json")["figures"] if each["load"] == load}


@pytest.mark.parametrize("rows", [1, 8, 32])
def test_readme_says_how_fast_streams_are(rows: int) -> None:
    found = sides(f"{rows} at once")
    ratios = [between(found[side]["ratio"]) for side in SIDES]
    if rows == 1:
        ratios[-1] = ""  # one stream's weights differ from nobody's
    line = " ".join(f"| {rows} | {' | '.join(ratios)} |".split())
    assert line in " ".join(text("README.md").split())


def test_page_says_what_processor_time_a_token_takes() -> None:
    thrift = [between(sides(f"{rows} at once")["no weights"]["cpu_ratio"]) for rows in (1, 8, 32)]
    assert f"{thrift[0]} times the tokens of plain vLLM's for one stream, {thrift[1]} for 8, {thrift[2]} for 32" in (
        " ".join(text(SERVE).split())
    )


def test_page_says_what_reading_and_changing_costs() -> None:
    live = measured("live.json")
    found = {each["side"]: each for each in live["figures"]}
    page = " ".join(text(SERVE).split())
    for name, side in (
        ("values of every token", "values of every token"),
        ("all of it read twice a second", "read twice a second"),
        ("each changed 5 times a second", "changed 5 times a second"),
    ):
        assert f"{name} {between(found[side]['ratio'])}" in page
    for changes in live["changes"].values():
        assert f"{changes['p50_ms']:.0f} ms, {changes['p95_ms']:.0f} ms for 95 of 100" in page


@pytest.mark.parametrize("side", BY_TOOLS)
def test_page_says_what_load_generators_of_others_find(side: str) -> None:
    found = [each for each in measured("tools.json")["figures"] if each["side"] == side]
    assert [each["tool"] for each in found] == ["vllm bench serve", "guidellm"]
    ratios = [between(each[kind]) for each in found for kind in ("first_ratio", "gap_ratio")]
    assert f"| {side} | {' | '.join(ratios)} |" in text(SERVE)
