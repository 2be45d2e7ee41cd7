"""One more objective on a trunk that stays as it is, around a fake engine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.training.fake_engines import RoundsEngine
from tests.training.killing import killed_and_gone_on_with
from training.cli import app
from training.errors import RunDirError
from training.head.checkpoint import joined_heads
from training.head.fit import States, train_head
from training.head.run import HeadRun, head_run, open_head_run
from training.opening import one_more_slider
from training.recipe import FitRecipe
from training.recipe_file import parse_objective
from training.report import print_summary
from training.runs.run import Run, StageName
from training.stages import run_stage
from valuemodels.contract.value_config import HeadConfig, read_value_config
from valuemodels.models.checkpoint import load_value_model
from valuemodels.models.trunk import ValueHead

REWARD = 'tests.training.letters:Letters {"wanted": "abcdefgh"}'
OBJECTIVE = parse_objective("earliness", "Early letters.", REWARD)


@pytest.fixture(scope="session")
def one_more(rounds: Run, tmp_path_factory: pytest.TempPathFactory) -> HeadRun:
    run = head_run(rounds.run_dir.path, OBJECTIVE, tmp_path_factory.mktemp("head") / "run", Path(rounds.base_folder))
    RoundsEngine.asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.calibrate.stage.RolloutEngine", RoundsEngine)
        run.write()
        for name in run.stages:
            if not run.stage(name).is_done:
                run_stage(run, name)
    return run


def test_nothing_is_sampled_but_what_finds_its_scale(one_more: HeadRun) -> None:
    assert RoundsEngine.asked
    assert all(request.guidance and request.guidance.weights == {"earliness": 1.0} for request in RoundsEngine.asked)
    assert sorted(path.name for path in (one_more.run_dir.path / "iter_0").iterdir()) == [
        "calibrate", "head", "rewards", "slider_export",
    ]  # fmt: skip


def test_checkpoint_has_the_objective_beside_those_that_were_there(
    rounds: Run, one_more: HeadRun, capsys: pytest.CaptureFixture[str]
) -> None:
    before, now = (read_value_config(run.checkpoint) for run in (rounds, one_more))
    assert now.objectives[:-1] == before.objectives and now.id.startswith(f"{before.id}+")
    added = now.objectives[-1]
    assert (added.name, added.description, added.reward) == ("earliness", "Early letters.", REWARD)
    assert added.scale == one_more.stage("calibrate").summary()["scales"]["earliness"]
    assert "test_explained_variance" in added.metrics
    print_summary(one_more)
    assert "earliness" in capsys.readouterr().out


def test_values_that_were_there_stay_as_they_are(rounds: Run, one_more: HeadRun) -> None:
    tokens = torch.randint(2, 28, (4, 40), generator=torch.Generator().manual_seed(5))
    before, now = (
        load_value_model(run.checkpoint, run.base_folder, dtype=torch.float32, device="cpu")
        for run in (rounds, one_more)
    )
    with torch.no_grad():
        values = now(tokens)
        torch.testing.assert_close(values[..., :-1], before(tokens), atol=1e-6, rtol=0)
    assert values[..., -1].std() > 0


@pytest.mark.parametrize(
    "configs",
    [
        (HeadConfig(kind="mlp", hidden=6), HeadConfig(kind="mlp", hidden=10)),
        (HeadConfig(kind="linear"), HeadConfig(kind="linear")),
    ],
    ids=["mlp", "linear"],
)
def test_joined_heads_give_what_both_give(configs: Sequence[HeadConfig]) -> None:
    torch.manual_seed(0)
    first, second = (ValueHead(8, objectives, config) for objectives, config in zip((3, 2), configs, strict=True))
    units = None if configs[0].hidden is None else sum(config.hidden or 0 for config in configs)
    both = ValueHead(8, 5, HeadConfig(kind=configs[0].kind, hidden=units))
    own, other = ({f"head.{name}": p.detach() for name, p in head.named_parameters()} for head in (first, second))
    joined = joined_heads(own, other)
    both.load_state_dict({name.removeprefix("head."): tensor for name, tensor in joined.items()})
    hidden = torch.randn(7, 8)
    torch.testing.assert_close(both(hidden), torch.cat([first(hidden), second(hidden)], dim=1), atol=1e-6, rtol=0)


def test_head_learns_and_keeps_its_best_epoch() -> None:
    """With so high a rate that later epochs are worse, the weights must be those of the best one."""
    dice = torch.Generator().manual_seed(1)
    hidden = torch.randn(3000, 12, generator=dice)
    targets = torch.tanh(hidden[:, :1]) + 0.1 * torch.randn(3000, 1, generator=dice)
    train, validation = (States(hidden[part].half(), targets[part]) for part in (slice(0, 2000), slice(2000, None)))
    for rate in (2e-2, 0.5):
        torch.manual_seed(0)
        head = ValueHead(12, 1, HeadConfig(kind="mlp", hidden=32))
        losses = train_head(head, train, validation, FitRecipe(epochs=12, learning_rate=rate), seed=0)
        with torch.no_grad():
            loss = float((head(validation.hidden) - validation.targets).square().mean())
        assert loss == pytest.approx(min(losses), rel=1e-3)
        if rate < 0.1:
            assert loss < 0.2 * float(targets.var())


def test_stages_processes_find_the_run_it_lives_on(one_more: HeadRun) -> None:
    assert open_head_run(one_more.run_dir.path, Path(one_more.base_folder)) == one_more


def test_runs_that_have_no_replies_or_the_objective_already_are_refused(
    rounds: Run, one_more: HeadRun, tmp_path: Path
) -> None:
    base = Path(rounds.base_folder)
    with pytest.raises(RunDirError, match="name: got 'positivity', allowed is one that"):
        head_run(rounds.run_dir.path, parse_objective("positivity", "", REWARD), tmp_path, base)
    with pytest.raises(
        RunDirError, match=r"a run of kind head; allowed is the folder of a `mavis train run` or `fast`"
    ):
        one_more_slider(one_more.run_dir.path, OBJECTIVE, tmp_path, base)
    unfinished = replace(rounds, recipe=rounds.recipe.model_copy(update={"seed": 99}))
    unfinished = replace(unfinished, run_dir=type(rounds.run_dir)(tmp_path / "unfinished"))
    unfinished.write()
    with pytest.raises(RunDirError, match="is not done"):
        head_run(unfinished.run_dir.path, OBJECTIVE, tmp_path, base)


def test_command_goes_on_where_it_was_and_exports(rounds: Run, one_more: HeadRun, tmp_path: Path) -> None:
    given = {
        "--from": str(rounds.run_dir.path), "--name": "earliness", "--description": "Early letters.",
        "--run-dir": str(one_more.run_dir.path), "--base-folder": rounds.base_folder, "--export": str(tmp_path / "out"),
    }  # fmt: skip
    result = CliRunner().invoke(app, ["slider", REWARD, *(part for pair in given.items() for part in pair)])
    assert result.exit_code == 0, result.output
    assert "head: done before" in result.output
    assert read_value_config(tmp_path / "out").names == ("positivity", "simplicity", "earliness")


@pytest.mark.parametrize("name", ["head", "slider_export"])
def test_stage_goes_on_where_it_was_killed(one_more: HeadRun, tmp_path: Path, name: StageName) -> None:
    killed_and_gone_on_with(one_more.run_dir.path, one_more.base_folder, name, 0, tmp_path)
