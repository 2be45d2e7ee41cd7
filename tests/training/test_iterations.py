"""Value models from round to round, around a fake engine: who tilts, who learns, which round is kept."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.training.kit import FakeEngine
from training.cli import app
from training.errors import RunDirError
from training.fit.dataset import load_training_data
from training.recipe import Recipe
from training.recipe_file import read_recipe
from training.report import print_summary
from training.rollouts.engine import Reply
from training.rollouts.requests import Request
from training.rollouts.weights import tree_weights
from training.rounds_recipe import JudgeRecipe, RoundsRecipe
from training.runs.run import Run
from training.runs.run_dir import RunDir
from training.stages import run_stage
from valuemodels.contract.value_config import read_value_config
from valuemodels.models.checkpoint import read_tensors

WORDS = ("good", "awful", "happy", "sad", "bread", "photosynthesis", "love", "hate")
KIND = ("good", "happy", "love", "bread")


class RoundsEngine(FakeEngine):
    """Replies with words by the seed, kinder where they are tilted, by as much as `kindness` says of the guide's round.

    A reply costs what a power of the strength says, so that calibration finds a scale.
    """

    kindness: tuple[float, ...] = (0.3, 0.6, 0.1)
    guides: list[str] = []  # noqa: RUF012 (reset by the fixture)

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        guide = arguments[2] if len(arguments) > 2 else None
        folder = "" if guide is None else guide.checkpoints[0]  # type: ignore[attr-defined]
        self._round = int(folder.split("iter_")[1][0]) if "iter_" in folder else 0
        type(self).guides.append(folder)

    def reply(self, request: Request) -> Reply:
        guidance = request.guidance
        share = 0.0 if guidance is None else type(self).kindness[self._round]
        picks = [(request.seed >> shift) % 8 for shift in range(0, 18, 3)]
        words = [KIND[pick % 4] if (request.seed + place) % 10 < 10 * share else WORDS[pick]
                 for place, pick in enumerate(picks)]  # fmt: skip
        kl_nats = 0.0 if guidance is None else 0.3 * (guidance.beta or 0.0) ** 1.8
        ratios = () if guidance is None else (0.5, 0.25, 0.25)
        prompt = (request.prompt_id, request.prompt_token_ids, request.sample)
        return Reply(*prompt, (5, 6, 7), " ".join(words), "length", kl_nats, ratios)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    recipe = read_recipe("embedded")
    rollout = recipe.rollout.model_copy(update={"shard_prompts": 8, "samples": 3, "held_out_samples": 2})
    return recipe.model_copy(
        update={
            "limit": 10,
            "iterations": 3,
            "rollout": rollout,
            "backbone": recipe.backbone.model_copy(update={"layers": 1}),
            "fit": recipe.fit.model_copy(update={"epochs": 1, "zeta": 0.1}),
            "rounds": RoundsRecipe(samples=2),
            "judge": JudgeRecipe(limit=8, samples=2),
        }
    )


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory, chat_base: str) -> Run:
    """Three rounds, of which the second is the best."""
    RoundsEngine.guides = []
    run = Run(recipe, RunDir(tmp_path_factory.mktemp("rounds") / "run"), chat_base)
    with pytest.MonkeyPatch.context() as patch:
        for stage in ("rollouts", "calibrate", "judge"):
            patch.setattr(f"training.{stage}.stage.RolloutEngine", RoundsEngine)
        run.write()
        for iteration in run.iterations:
            for name in iteration.stages:
                run_stage(iteration, name)
    return run


def test_the_best_round_tilts_the_next_and_is_exported(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    summaries = [each.stage("judge").summary() for each in finished.iterations]
    assert [summary["kept"] for summary in summaries] == [True, True, False]
    assert [summary["best"] for summary in summaries] == [0, 1, 1]
    last = finished.at(2)
    assert last.best.iteration == 1 and last.stage("export").summary()["round"] == 1
    exported = last.finished("export") / "checkpoint"
    assert read_value_config(exported).training.iteration == 1
    fitted = read_tensors(finished.at(1).finished("fit") / "values")
    assert all(torch.equal(tensor, fitted[name]) for name, tensor in read_tensors(exported).items())
    print_summary(finished)
    said = capsys.readouterr().out
    assert "zeta" in said and "round 1 is exported" in said


def test_worth_is_reward_less_zeta_times_kl(finished: Run) -> None:
    verdict = finished.at(1).stage("judge").summary()["verdict"]
    gains = [gain["value"] for gain in verdict["gains"].values()]
    expected = sum(gains) / len(gains) - 0.1 * finished.recipe.calibrate.target_kl
    assert verdict["worth"]["value"] == pytest.approx(expected)
    assert set(verdict["gains"]) == {"positivity", "simplicity", "together"}


def test_rounds_are_judged_by_the_same_prompts_and_the_same_replies_of_the_base(finished: Run) -> None:
    assert (finished.at(0).stage("judge").folder / "base").is_dir()
    assert not (finished.at(1).stage("judge").folder / "base").exists()
    assert {each.stage("judge").summary()["prompts"] for each in finished.iterations} == {8}


def test_a_tree_teaches_the_objective_that_tilted_it_and_charges_it_for_nats(finished: Run) -> None:
    later = finished.at(1)
    data = load_training_data(later)
    base = load_training_data(finished.at(0))
    assert all(example.teaches is None for example in base.examples["train"])
    assert len(data.examples["train"]) == 10 * 2, "rounds.samples"
    taught = {example.teaches for example in data.examples["train"]}
    assert taught == {(True, False), (False, True)}
    for example in data.examples["train"]:
        place = (example.teaches or ()).index(True)
        targets = example.learned.targets[:, place]
        # Remaining log-ratios after 1, 2 and 3 tokens are 0.5, 0.25 and 0.
        assert (targets[3] - targets[1]).item() == pytest.approx(0.1 * 0.5)
        assert (targets[3] - targets[2]).item() == pytest.approx(0.1 * 0.25)


def test_later_rounds_begin_with_the_values_that_tilted(finished: Run) -> None:
    first, second = (read_tensors(finished.at(n).finished("fit") / "values") for n in (0, 1))
    apart = sum((first[name] - second[name]).square().sum() for name in first)
    size = sum(tensor.square().sum() for tensor in first.values())
    assert 0 < apart < 0.2 * size
    starts = finished.at(1).stage("calibrate").summary()["trials"]
    scales = finished.at(0).stage("calibrate").summary()["scales"]
    assert {name: trials[0]["scale"] for name, trials in starts.items()} == pytest.approx(scales)


def test_weights_of_a_tree_follow_from_round_and_prompt(finished: Run) -> None:
    weights = [tree_weights(finished.at(1), f"prompt {n}") for n in range(40)]
    assert weights == [tree_weights(finished.at(1), f"prompt {n}") for n in range(40)]
    assert weights != [tree_weights(finished.at(2), f"prompt {n}") for n in range(40)]
    assert {tuple(each.items()) for each in weights} == {(("positivity", 1.0),), (("simplicity", 1.0),)}
    assert tree_weights(finished, "prompt 1") == {}


def test_more_rounds_go_on_from_what_is_done_and_other_rounds_are_refused(finished: Run, recipe: Recipe) -> None:
    longer = Run(recipe.model_copy(update={"iterations": 4}), finished.run_dir, finished.base_folder)
    for iteration in longer.iterations[:3]:
        for name in iteration.stages:
            iteration.finished(name)
    changed = recipe.model_copy(update={"rounds": RoundsRecipe(samples=3)})
    other = Run(changed, finished.run_dir, finished.base_folder)
    other.at(0).finished("judge")
    with pytest.raises(RunDirError, match=r"rollouts\.samples = 2, but it is 3 now"):
        other.at(1).finished("rollouts")


def test_the_command_says_how_many_rounds(tmp_path: Path, chat_base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []
    monkeypatch.setattr("training.cli.carry_out", lambda run: seen.append((run.last, run.recipe.is_judged)))
    monkeypatch.setattr("training.cli.print_summary", lambda run: None)
    for more in ([], ["--iterations", "3"]):
        arguments = ["run", "embedded", "--run-dir", str(tmp_path / "own"), "--base-folder", chat_base, *more]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert seen == [(0, False), (2, True)]
