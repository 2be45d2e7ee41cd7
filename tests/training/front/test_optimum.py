"""`mavis evaluate optimum` around a fake engine: what it samples, what it sets side by side, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.training.front.conftest import CUT, KEPT_KL, KL, TwoWordEngine


def test_every_slider_is_set_beside_the_best_policies(call: Callable[..., Result], tmp_path: Path) -> None:
    result = call("--base-samples", "40", "--weights", "1,-1", command="optimum")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out").read_text())
    assert (report["prompts"], report["base_samples"], report["samples"]) == (6, 40, 2)
    rows = {(row["objective"], row["weight"]): row["near"] for row in report["rows"]}
    assert set(rows) == {(name, weight) for name in ("positivity", "simplicity") for weight in (1.0, -1.0)}
    for weight in (1.0, -1.0):
        assert rows["positivity", weight]["gain"]["value"] > 0, "the fake writes the warmest words, or the saddest"
    for near in rows.values():
        # What is sampled from the likeliest tokens alone has cost that, too.
        assert near["kl_nats"]["value"] == pytest.approx(KEPT_KL + CUT)
        assert near["share"]["value"] == pytest.approx(near["gain"]["value"] / near["best"]["value"])
        assert near["gap_nats"]["value"] > 0 and near["effective"] < 40
    assert "positivity -1" in result.output and "40 replies of the base" in result.output


def test_what_the_cut_does_by_itself_can_be_left_out(call: Callable[..., Result], tmp_path: Path) -> None:
    asked = ("--base-samples", "40", "--weights", "1", "--candidates", "30")
    assert call(*asked, command="optimum").exit_code == 0
    whole = json.loads((tmp_path / "out").read_text())
    TwoWordEngine.asked.clear()
    result = call(*asked, "--truncated", command="optimum")
    assert result.exit_code == 0, result.output
    assert {request.guidance for request in TwoWordEngine.asked} == {None}, "the tilts are the same"
    assert TwoWordEngine.cuts == {30} and len(TwoWordEngine.asked) == 6 * 40
    cut = json.loads((tmp_path / "out").read_text())
    assert (whole["truncated"], cut["truncated"]) == (False, True)
    assert {row["near"]["kl_nats"]["value"] for row in cut["rows"]} == {KL}
    assert "cut to its 30 likeliest tokens" in " ".join(result.output.split())


def test_one_slider_alone_can_be_looked_at_and_nothing_is_sampled_twice(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    asked = ("--base-samples", "20", "--objective", "simplicity", "--weights", "0.5")
    first = call(*asked, command="optimum")
    report = (tmp_path / "out").read_text()
    assert first.exit_code == 0 and [row["objective"] for row in json.loads(report)["rows"]] == ["simplicity"]
    assert call(*asked, command="optimum").exit_code == 0
    assert (tmp_path / "out").read_text() == report
    assert call(*asked, "--candidates", "5", command="optimum").exit_code == 0, "another tilt, beside the first"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (("--objective", "wit"), "objective: got 'wit', allowed is one of positivity, simplicity"),
        (("--weights", "1,x"), "weights: got '1,x', allowed is numbers other than 0"),
        (("--weights", "0"), "weights: got '0', allowed is numbers other than 0"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    call: Callable[..., Result], wrong: tuple[str, str], named: str
) -> None:
    result = call(*wrong, command="optimum")
    assert result.exit_code != 0 and named in " ".join(result.output.split())
