"""Value models from round to round, around a fake engine: who tilts, who learns, which round is kept."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from training.cli import app
from training.errors import RunDirError
from training.fit.dataset import load_training_data
from training.recipe import Recipe
from training.report import print_summary
from training.rollouts.weights import tree_weights
from training.rounds_recipe import RoundsRecipe
from training.runs.run import Run
from valuemodels.contract.value_config import read_value_config
from valuemodels.models.checkpoint import read_tensors


def test_the_best_round_tilts_the_next_and_is_exported(rounds: Run, capsys: pytest.CaptureFixture[str]) -> None:
    summaries = [each.stage("judge").summary() for each in rounds.iterations]
    assert [summary["kept"] for summary in summaries] == [True, True, False]
    assert [summary["best"] for summary in summaries] == [0, 1, 1]
    last = rounds.at(2)
    assert last.best.iteration == 1 and last.stage("export").summary()["round"] == 1
    exported = last.finished("export") / "checkpoint"
    assert read_value_config(exported).training.iteration == 1
    fitted = read_tensors(rounds.at(1).finished("fit") / "values")
    assert all(torch.equal(tensor, fitted[name]) for name, tensor in read_tensors(exported).items())
    print_summary(rounds)
    said = capsys.readouterr().out
    assert "E[r]" in said and "round 1 is exported" in said


def test_worth_is_reward_less_zeta_times_kl(rounds: Run) -> None:
    verdict = rounds.at(1).stage("judge").summary()["verdict"]
    gains = [gain["value"] for gain in verdict["gains"].values()]
    expected = sum(gains) / len(gains) - 0.1 * rounds.recipe.calibrate.target_kl
    assert verdict["worth"]["value"] == pytest.approx(expected)
    assert set(verdict["gains"]) == {"positivity", "simplicity", "together"}


def test_rounds_are_judged_by_the_same_prompts_and_the_same_replies_of_the_base(rounds: Run) -> None:
    assert (rounds.at(0).stage("judge").folder / "base").is_dir()
    assert not (rounds.at(1).stage("judge").folder / "base").exists()
    assert {each.stage("judge").summary()["prompts"] for each in rounds.iterations} == {8}


def test_a_tree_teaches_the_objective_that_tilted_it_and_charges_it_for_nats(rounds: Run) -> None:
    later = rounds.at(1)
    data = load_training_data(later)
    base = load_training_data(rounds.at(0))
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


def test_later_rounds_begin_with_the_values_that_tilted(rounds: Run) -> None:
    first, second = (read_tensors(rounds.at(n).finished("fit") / "values") for n in (0, 1))
    apart = sum((first[name] - second[name]).square().sum() for name in first)
    size = sum(tensor.square().sum() for tensor in first.values())
    assert 0 < apart < 0.2 * size
    starts = rounds.at(1).stage("calibrate").summary()["trials"]
    scales = rounds.at(0).stage("calibrate").summary()["scales"]
    assert {name: trials[0]["scale"] for name, trials in starts.items()} == pytest.approx(scales)


def test_weights_of_a_tree_follow_from_round_and_prompt(rounds: Run) -> None:
    weights = [tree_weights(rounds.at(1), f"prompt {n}") for n in range(40)]
    assert weights == [tree_weights(rounds.at(1), f"prompt {n}") for n in range(40)]
    assert weights != [tree_weights(rounds.at(2), f"prompt {n}") for n in range(40)]
    assert {tuple(each.items()) for each in weights} == {(("positivity", 1.0),), (("simplicity", 1.0),)}
    assert tree_weights(rounds, "prompt 1") == {}


def test_more_rounds_go_on_from_what_is_done_and_other_rounds_are_refused(rounds: Run, rounds_recipe: Recipe) -> None:
    longer = Run(rounds_recipe.model_copy(update={"iterations": 4}), rounds.run_dir, rounds.base_folder)
    for iteration in longer.iterations[:3]:
        for name in iteration.stages:
            iteration.finished(name)
    changed = rounds_recipe.model_copy(update={"rounds": RoundsRecipe(samples=3)})
    other = Run(changed, rounds.run_dir, rounds.base_folder)
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
