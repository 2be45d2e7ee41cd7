"""`mavis evaluate front` around a fake engine: what it samples, how it measures, what it writes and refuses."""

from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import Result

from tests.training.front.conftest import CUT, KEPT_KL, OWN, READ, TwoWordEngine, report_of
from training.evaluate.mix import Mix
from training.front.methods import Setting
from training.front.prompted import Prompted
from training.front.report import verdicts
from training.prompts.chat import ChatPrompt
from training.rollouts.engine import Limits
from training.rollouts.sampler import Sampler


def test_every_method_answers_every_mix_and_is_measured_alike(call: Callable[..., Result], tmp_path: Path) -> None:
    result = call("--pair", "positivity,simplicity")
    assert result.exit_code == 0, result.output
    (group,) = report_of(tmp_path)["groups"]
    by_name = {each["method"]: each for each in group["methods"]}
    assert list(by_name) == ["base", "tilted, exact", "prompted", "best of 4", "best of 16"]
    assert all(len(each["points"]) == 11 for each in by_name.values())
    base, tilted = by_name["base"], by_name["tilted, exact"]
    assert base["kl_nats"]["value"] == 0 and base["mip"]["low"] < 0 < base["mip"]["high"]
    # What is sampled from the likeliest tokens alone has cost that, too.
    assert tilted["kl_nats"]["value"] == pytest.approx(KEPT_KL + CUT)
    assert by_name["prompted"]["kl_nats"]["value"] == pytest.approx(OWN - READ)
    assert by_name["best of 16"]["kl_nats"]["value"] == pytest.approx(log(16) - 15 / 16)
    assert tilted["mip_ahead"] is None and base["mip_ahead"]["low"] > 0
    ends = [tilted["points"][place]["shifts"] for place in (0, -1)]
    assert ends[0]["positivity"]["value"] > ends[1]["positivity"]["value"] + 1
    assert base["perplexity"] == pytest.approx(2.718281828 ** (-OWN / 4))
    assert by_name["prompted"]["perplexity"] == pytest.approx(2.718281828 ** (-READ / 4))


def test_the_best_are_chosen_by_the_mix_and_more_choice_is_better(call: Callable[..., Result], tmp_path: Path) -> None:
    assert call("--pair", "positivity,simplicity").exit_code == 0
    (group,) = report_of(tmp_path)["groups"]
    four, sixteen = (next(m for m in group["methods"] if m["method"] == f"best of {n}") for n in (4, 16))
    assert four["points"][0]["shifts"]["positivity"]["value"] > four["points"][-1]["shifts"]["positivity"]["value"]
    assert sixteen["mip"]["value"] > four["mip"]["value"] > 0
    assert (four["passes"], sixteen["passes"]) == (4, 16)


def test_other_tilts_are_methods_of_their_own(call: Callable[..., Result], tmp_path: Path) -> None:
    result = call("--best-of", "", "--tilts", "1,0.5,1@5,0.5@20")
    assert result.exit_code == 0, result.output
    (group,) = report_of(tmp_path)["groups"]
    names = [each["method"] for each in group["methods"]]
    assert names[1:5] == [
        "tilted, exact", "tilted, exact, strength 0.5", "tilted, exact, 5 candidates",
        "tilted, exact, strength 0.5, 20 candidates",
    ]  # fmt: skip
    weak = group["methods"][2]
    assert (
        weak["points"][0]["shifts"]["positivity"]["value"]
        < group["methods"][1]["points"][0]["shifts"]["positivity"]["value"]
    )
    assert {request.guidance.candidates for request in TwoWordEngine.asked if request.guidance} == {None, 5, 20}


def test_pairs_not_looked_at_closely_are_left_to_the_base_and_its_tilts(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    assert call().exit_code == 0
    (group,) = report_of(tmp_path)["groups"]
    assert [each["method"] for each in group["methods"]] == ["base", "tilted, exact", "best of 4", "best of 16"]
    assert {len(each["points"]) for each in group["methods"]} == {5}
    assert call("--full").exit_code == 0
    (group,) = report_of(tmp_path)["groups"]
    assert "prompted" in [each["method"] for each in group["methods"]]


def test_nothing_is_sampled_twice(call: Callable[..., Result]) -> None:
    assert call("--pair", "positivity,simplicity").exit_code == 0
    tilted = [request for request in TwoWordEngine.asked if request.guidance]
    assert len(tilted) == 11 * 6 * 2
    # The base's own replies, 16 for each that is shown; and those to other prompts.
    assert len(TwoWordEngine.asked) - len(tilted) == (16 + 11) * 6 * 2
    TwoWordEngine.asked = []
    assert call("--pair", "positivity,simplicity").exit_code == 0
    assert TwoWordEngine.asked == []


def test_replies_of_all_methods_are_paired(call: Callable[..., Result]) -> None:
    assert call("--pair", "positivity,simplicity", "--points", "3", "--best-of", "").exit_code == 0
    seeds: dict[tuple[str, int], set[int]] = {}
    for request in TwoWordEngine.asked:
        seeds.setdefault((request.prompt_id, request.sample), set()).add(request.seed)
    assert len(seeds) == 6 * 2 and all(len(shared) == 1 for shared in seeds.values())


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"warm": 1.0, "plain": 0.0}, "Above all: Be warm."),
        ({"warm": 0.2, "plain": 0.8}, "Above all: Be plain. A little: Be warm."),
        ({"warm": 0.6, "plain": 0.4}, "Be warm. Be plain."),
    ],
)
def test_a_mix_is_asked_for_in_words_the_weightiest_first(shares: dict[str, float], said: str) -> None:
    asked: list[str] = []

    def render(text: str) -> tuple[int, ...]:
        asked.append(text)
        return (1,)

    prompt = ChatPrompt("a", "test", "Why?", (7,))
    engine = cast(Any, TwoWordEngine)
    sampler = Sampler(Path("nowhere"), engine, {}, [prompt], Limits(4), 0)
    method = Prompted(Setting(sampler, engine, {}, {}, {}, 1), {"warm": "Be warm.", "plain": "Be plain."}, render)
    assert method.instruction(Mix(shares)) == said
    (rendered,) = method.asked(Mix(shares))
    assert asked == [f"Why?\n\n{said}"] and (rendered.prompt_id, rendered.token_ids) == ("a", (1,))


def test_a_report_is_written_for_people(call: Callable[..., Result], tmp_path: Path) -> None:
    result = call("--pair", "positivity,simplicity", "--best-of", "4")
    assert "Against base, tilted, exact is ahead in HV and ahead in MIP, at more KL" in result.output
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## positivity and simplicity, 11 mixes" in text and "| best of 4 |" in text
    assert (tmp_path / "out" / "pareto.png").stat().st_size > 10_000


def test_a_verdict_says_so_where_another_method_wins() -> None:
    def method(name: str, ahead: tuple[float, float] | None, kl_nats: float, perplexity: float) -> dict[str, Any]:
        estimate = None if ahead is None else {"value": sum(ahead) / 2, "low": ahead[0], "high": ahead[1]}
        figures = {"hypervolume_ahead": estimate, "mip_ahead": estimate, "passes": 1.0}
        matched = {**figures, "method": "ours, gently"} if name == "alike" else None
        return {"method": name, "kl_nats": {"value": kl_nats}, "perplexity": perplexity, "matched": matched, **figures}

    group = {
        "methods": [
            method("base", (0.1, 0.2), 0.0, 9.0),
            method("ours", None, 5.0, 8.0),
            method("better", (-0.3, -0.1), 6.0, 7.0),
            method("alike", (-0.3, 0.1), 4.0, 8.5),
        ]
    }
    base, better, alike = verdicts(group)
    assert "ahead in HV" in base and "more KL" in base and "no worse perplexity" in base
    assert "behind in HV and behind in MIP, at no more KL and worse perplexity" in better
    assert "not told apart in HV" in alike
    assert alike.endswith("At no more cost, ours, gently is not told apart in HV and not told apart in MIP, "
                          "by -0.10 [-0.30, 0.10] and -0.10 [-0.30, 0.10].")  # fmt: skip
    assert "At no more cost" not in base + better


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pair", "positivity"], "pair: got 'positivity', allowed is 2 different ones of positivity, simplicity"),
        (["--triple", "positivity,simplicity"], "triple: got 'positivity,simplicity', allowed is 3 different ones"),
        (["--no-others"], "pair: got none, allowed is two of positivity, simplicity"),
        (["--best-of", "1"], "best_of: got '1', allowed is whole numbers from 2"),
        (["--best-of", "four"], "best_of: got 'four', allowed is whole numbers from 2"),
        (["--tilts", "1,0"], "tilts: got '0', allowed is a number above 0"),
        (["--tilts", "x"], "tilts: got 'x', allowed is a number above 0"),
        (["--tilts", "1@"], "tilts: got '1@', allowed is a number above 0"),
        (["--tilts", "1@1025"], "tilts: got '1@1025', allowed is a number above 0, then @ and from 1 to 1024"),
        (["--full", "--instructions", "missing.yaml"], "instructions: missing.yaml cannot be read"),
        (["--instructions", "own.yaml"], "instructions: got own.yaml, allowed is that only where a --pair,"),
        (["--experts", "runs/experts"], "experts: got runs/experts, allowed is that only where a --pair,"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(call: Callable[..., Result], arguments: list[str], said: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2 and said in " ".join(result.output.split())


def test_objectives_without_a_sentence_are_not_asked_for(call: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("positivity: Be warm.\n")
    result = call("--full", "--instructions", str(path))
    assert result.exit_code == 2 and "has no sentence for simplicity" in " ".join(result.output.split())
