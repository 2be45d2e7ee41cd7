"""A recipe's keys tried one at a time on the same replies, around a fake engine; and what is told of the fits."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from tests.training.fake_engines import RoundsEngine
from training.ablate.held_out import Squares, estimates
from training.cli import app
from training.errors import RecipeError
from training.fit.dataset import load_training_data
from training.fit.variant import open_variant_run, varied
from training.opening import open_any_run
from training.recipe import Recipe
from training.recipe_file import read_recipe
from training.runs.run import Run, StageName
from training.stages import run_stage


class Ablation:
    """`mavis train ablate` in a folder, its stages in this process."""

    def __init__(self, folder: Path, recipe: Recipe, base: str) -> None:
        self.folder = folder
        self.carried_out: list[str] = []
        self._base = base
        self._recipe = folder / "own.yaml"
        self._recipe.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))

    def run(self, *vary: str) -> Result:
        self.carried_out = []
        keys = [part for key in vary for part in ("--vary", key)]
        fixed = ["--run-dir", str(self.folder / "runs"), "--out", str(self.folder / "out.json")]
        return CliRunner().invoke(app, ["ablate", str(self._recipe), *keys, *fixed, "--base-folder", self._base])

    def stage(self, run: Run, name: StageName) -> None:
        self.carried_out.append(f"{run.run_dir.path.name} {name}")
        run_stage(open_any_run(run.run_dir.path, Path(self._base)), name)

    def tokens(self, name: str) -> dict[str, list[tuple[int, ...]]]:
        """Split -> prompt and reply of everything that the run of that name is fitted to or measured on."""
        run = open_variant_run(self.folder / "runs" / name, Path(self._base))
        return {
            split: [example.token_ids for example in examples]
            for split, examples in load_training_data(run).examples.items()
        }

    def written(self) -> Any:
        return json.loads((self.folder / "out.json").read_text())


@pytest.fixture(scope="module")
def ablation(rounds_recipe: Recipe, chat_base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ablation]:
    RoundsEngine.guides = []
    made = Ablation(tmp_path_factory.mktemp("ablate"), rounds_recipe, chat_base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.rounds.carry_out_in_own_process", made.stage)
        patch.setattr("training.rollouts.stage.RolloutEngine", RoundsEngine)
        yield made


@dataclass(frozen=True)
class Fitted:
    """What came of the recipe as it is and of two variants."""

    said: str
    carried_out: list[str]
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def fitted(ablation: Ablation) -> Fitted:
    result = ablation.run("backbone.layers=2", "fit.replies=1")
    assert result.exit_code == 0, result.output
    return Fitted(result.output, ablation.carried_out, ablation.written()["rows"])


def test_variants_are_fitted_to_the_replies_of_the_first_and_set_beside_it(fitted: Fitted) -> None:
    variants = ["backbone.layers=2", "fit.replies=1"]
    sampled = [f"as-it-is {name}" for name in ("prompts", "rollouts", "rewards", "fit")]
    assert fitted.carried_out == [*sampled, *(f"{name} fit" for name in variants)]
    rows = {row["variant"]: row for row in fitted.rows}
    assert list(rows) == ["as it is", *variants]
    assert rows["as it is"]["ahead"] is None
    for row in rows.values():
        assert list(row["explained"]) == ["positivity", "simplicity", "mean"]
        means = [row["explained"][name]["value"] for name in ("positivity", "simplicity")]
        assert row["explained"]["mean"]["value"] == pytest.approx(sum(means) / 2)
        assert row["explained"]["mean"]["low"] <= row["explained"]["mean"]["value"] <= row["explained"]["mean"]["high"]
        assert row["explained"]["mean"]["value"] < 1
    deeper = rows["backbone.layers=2"]
    difference = deeper["explained"]["mean"]["value"] - rows["as it is"]["explained"]["mean"]["value"]
    assert deeper["ahead"]["mean"]["value"] == pytest.approx(difference)
    assert "backbone.layers=2" in fitted.said


def test_fewer_replies_are_learned_from_and_as_many_measured_on(ablation: Ablation, fitted: Fitted) -> None:
    whole, one = (ablation.tokens(name) for name in ("as-it-is", "fit.replies=1"))
    assert len(whole["train"]) == 3 * len(one["train"]) > 0
    assert set(one["train"]) == set(whole["train"])  # of the same prompts; a fake engine says the same thrice
    assert (one["validation"], one["test"]) == (whole["validation"], whole["test"])


def test_what_is_fitted_is_not_fitted_again(ablation: Ablation, fitted: Fitted) -> None:
    assert ablation.run("backbone.layers=2", "head.hidden=8").exit_code == 0
    assert ablation.carried_out == ["head.hidden=8 fit"]


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ("rollout.samples=2", "vary: got 'rollout.samples', allowed is a key of backbone.*, head.*, fit.*"),
        ("backbone=2", "vary: got 'backbone', allowed is a key of"),
        ("backbone.layers", "vary: got 'backbone.layers', allowed is KEY=VALUE,VALUE"),
        ("backbone.layers=2,", "vary: got 'backbone.layers=2,', allowed is KEY=VALUE,VALUE"),
        ("backbone.depth=2", "depth"),
        ("backbone.layers=many", "backbone.layers"),
        ("backbone.layers.first=2", "the recipe has no backbone.layers"),
        ("fit.replies=0", "fit.replies"),
    ],
)
def test_what_cannot_be_varied_is_one_sentence(ablation: Ablation, vary: str, message: str) -> None:
    result = ablation.run(vary)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()) and "Traceback" not in result.output
    assert ablation.carried_out == []


def test_a_key_within_a_key_is_varied() -> None:
    recipe = read_recipe("embedded")
    assert recipe.backbone.adapter is not None
    now = varied(recipe, "backbone.adapter.rank", "4")
    changed = recipe.backbone.adapter.model_copy(update={"rank": 4})
    assert now == recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"adapter": changed})})
    with pytest.raises(RecipeError, match=r"varied|adapter"):
        varied(now, "backbone.adapter.rank", "none")


def test_shares_are_of_the_sums_over_prompts_and_a_fit_is_not_ahead_of_itself() -> None:
    dice = np.random.default_rng(3)
    totals = dice.uniform(1, 2, size=(40, 2))
    half, none = Squares(totals * [0.5, 0.25], totals), Squares(totals, totals)
    assert [each.value for each in estimates(half)] == pytest.approx([0.5, 0.75, 0.625])
    assert all(each.low == pytest.approx(each.high) for each in estimates(half))  # the same share in every prompt
    assert [(each.value, each.low, each.high) for each in estimates(half, half)] == [(0, 0, 0)] * 3
    assert [each.value for each in estimates(half, none)] == pytest.approx([0.5, 0.75, 0.625])
    still = Squares(np.zeros((3, 2)), np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    assert [each.value for each in estimates(still)] == [1.0, 0.0, 0.5]  # where no replies differ, nothing is explained
    assert [each.low for each in estimates(still)] == [0.0, 0.0, 0.0]
    noisy = estimates(Squares(totals * dice.uniform(0, 1, size=(40, 2)), totals))[-1]
    assert noisy.low < noisy.value < noisy.high
