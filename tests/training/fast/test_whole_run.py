"""A whole run around a fake engine: every stage of every round, up to a checkpoint that serves."""

from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from tests.training.fast.conftest import carry_out
from training.cli import app
from training.errors import RunDirError
from training.fast.held_out import predict
from training.fast.positions import load_positions
from training.fast.run import FastRun
from training.recipe import Recipe
from training.recipe_file import read_recipe
from training.report import copy_checkpoint, print_probe
from training.runs.run_dir import RunDir
from training.runs.teacher import Teacher, read_teacher
from training.stages import run_stage
from valuemodels.contract.value_config import read_value_config
from valuemodels.models.checkpoint import load_probe, load_value_model, read_tensors
from valuemodels.models.probe import unit_rms
from valuemodels.tilting import advantages_of


@pytest.fixture
def folder(finished: FastRun) -> Path:
    """The finished checkpoint."""
    return finished.at(finished.last).finished("probe_export") / "checkpoint"


def test_result_is_the_teacher_and_a_probe(finished: FastRun, folder: Path, tiny_base: str) -> None:
    assert finished.teacher is not None
    found, exact = read_value_config(folder), finished.teacher.config
    assert found.scorings == ("exact", "fast", "hybrid") and found.format_version == 3
    assert found.id.startswith("letters+") and found.objectives == exact.objectives
    tensors, before = read_tensors(folder, part="exact"), read_tensors(finished.teacher.folder)
    assert tensors.keys() == before.keys()
    assert all(
        torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    load_value_model(folder, tiny_base, dtype=torch.float32, device="cpu")
    load_probe(folder, tiny_base, device="cpu")


def test_checkpoint_says_how_its_probe_was_made(finished: FastRun, folder: Path) -> None:
    probe = read_value_config(folder).probe
    assert probe is not None and probe.origin is not None
    assert probe.origin.distilled_from == "letters" and probe.origin.advantages and probe.origin.rounds == 1
    trained_on = 30 + finished.at(0).stage("invented").summary()["prompts"]
    assert probe.origin.replies == trained_on * (4 + 3)


def test_probe_learns_which_letters_are_rewarded(finished: FastRun, folder: Path, tiny_base: str) -> None:
    """The values of a token are what it does for the real reward, whatever the teacher's random values say."""
    probe, embeddings = load_probe(folder, tiny_base, device="cpu")
    tokens = torch.arange(2, 54)
    dice = torch.Generator().manual_seed(3)
    hidden = torch.randn(50, embeddings.shape[1], generator=dice)
    table = probe.token_table(embeddings)[tokens].expand(50, -1, -1)
    with torch.no_grad():
        values = probe(hidden, table, tokens.expand(50, -1)).mean(0)
    for place, rewarded in enumerate((range(16), range(26, 42))):
        is_rewarded = torch.tensor([number in rewarded for number in range(52)])
        assert values[is_rewarded, place].mean() > values[~is_rewarded, place].mean() + 0.1
    for figures in finished.at(1).stage("probe").summary()["metrics"].values():
        assert figures["validation_gain"] > 0.5


def test_served_probe_gives_the_values_that_were_measured(finished: FastRun, folder: Path, tiny_base: str) -> None:
    """Would catch a bias that half precision spoils, or embeddings scaled otherwise than in the fit."""
    probe, embeddings = load_probe(folder, tiny_base, device="cpu")
    means, stds = (torch.tensor(column) for column in zip(*finished.base_rewards().values(), strict=True))
    data = load_positions(finished.at(0), means, stds)
    token_ids = data.token_ids.long()
    with torch.no_grad():
        served = probe(data.hidden, probe.token_table(embeddings)[token_ids], token_ids)
    expected = advantages_of(served, data.base_logprobs)
    torch.testing.assert_close(predict(probe, unit_rms(embeddings), data), expected, atol=1e-4, rtol=0)


def test_scales_cost_what_the_recipe_asks(finished: FastRun, folder: Path) -> None:
    probe = read_value_config(folder).probe
    trials = finished.at(1).stage("probe_scales").summary()["trials"]
    starts = finished.at(1).stage("probe").summary()["scales"]
    assert probe is not None
    asked = finished.recipe.calibrate
    for name, scale in probe.scales.items():
        costs = {trial["scale"]: trial["kl_nats"] for trial in trials[name]}
        assert costs[scale] == pytest.approx(asked.target_kl, abs=asked.tolerance)
        assert trials[name][0]["scale"] == starts[name]


def test_a_run_without_a_teacher_makes_a_probe_alone(
    chat_base: str, small_recipe: Recipe, tmp_path: Path, tiny_base: str
) -> None:
    run = carry_out(FastRun(small_recipe, RunDir(tmp_path / "run"), chat_base))
    assert "labels" not in run.at(0).stages
    folder = run.at(1).finished("probe_export") / "checkpoint"
    config = read_value_config(folder)
    assert config.scorings == ("fast",) and config.backbone is None and config.head is None
    assert config.id.startswith("embedded+")
    assert config.probe is not None and config.probe.origin is not None
    assert config.probe.origin.distilled_from is None
    base = run.at(0).stage("reply_rewards").summary()["base"]
    assert {o.name: (o.mean, o.std, o.scale) for o in config.objectives} == {
        name: (found["mean"], found["std"], None) for name, found in base.items()
    }
    assert all(name.startswith("probe.") for name in read_tensors(folder))
    load_probe(folder, tiny_base, device="cpu")
    for figures in config.probe.metrics.values():
        assert figures["validation_gain"] > 0.5 and "validation_explained_variance" not in figures


def test_making_it_again_from_the_result_gives_it_back(
    finished: FastRun, folder: Path, tmp_path: Path, chat_base: str
) -> None:
    """Exporting over the teacher must neither spoil the run nor pile up ids."""
    copy_checkpoint(finished, tmp_path / "shipped")
    teacher = read_teacher(tmp_path / "shipped")
    again = FastRun(finished.recipe, finished.run_dir, chat_base, teacher=teacher)
    assert teacher.had_probe
    for iteration in again.iterations:
        for name in iteration.stages:
            iteration.finished(name)
    repeated = carry_out(FastRun(finished.recipe, RunDir(tmp_path / "second"), chat_base, teacher=teacher))
    second = repeated.at(1).finished("probe_export") / "checkpoint"
    assert read_value_config(second).id == read_value_config(folder).id
    tensors = read_tensors(folder)
    for key, tensor in read_tensors(second).items():
        torch.testing.assert_close(tensor, tensors[key], atol=1e-4, rtol=1e-4)


def test_summary_tells_every_objective_round_and_stage(finished: FastRun, capsys: pytest.CaptureFixture[str]) -> None:
    print_probe(finished)
    said = capsys.readouterr().out
    assert all(word in said for word in ("warmth", "brevity", "invented", "probe_scales", "in all"))


def test_stages_refuse_to_run_before_those_they_need(fresh: FastRun) -> None:
    with pytest.raises(RunDirError, match="prompts is not done"):
        run_stage(fresh, "invented")
    for name in ("prompts", "invented"):
        run_stage(fresh, name)
    with pytest.raises(RunDirError, match="probe is not done"):
        run_stage(fresh.at(1), "replies")


def test_command_resumes_and_exports(
    finished: FastRun, tmp_path: Path, chat_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done is not done again: the stages' processes would find no engine to fake."""
    assert finished.teacher is not None
    monkeypatch.setattr("training.cli.read_recipe", lambda name: finished.recipe)
    arguments = ["--run-dir", str(finished.run_dir.path), "--base-folder", chat_base, "--limit", "30"]
    target = tmp_path / "out"
    command = ["fast", str(finished.teacher.folder), "--recipe", "any", "--export", str(target), *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "probe_export, round 1: done before" in result.output
    assert read_value_config(target).scorings == ("exact", "fast", "hybrid")
    assert read_teacher(target).digest == finished.teacher.digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "without a checkpoint, --recipe says what to train on"),
        (["TEACHER"], "recipe: got 'tests', allowed is embedded, hh, saferlhf, summarize, or the path of"),
        (["TEACHER", "--recipe", "nothing"], "recipe: got 'nothing'"),
        (["TEACHER", "--recipe", "TRUNK"], r"fast.source: Input should be 'base' (got trunk)"),
        (["EMPTY"], "has no value_config.json"),
    ],
)
def test_command_ends_with_one_sentence_and_status_2(
    arguments: list[str], message: str, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = read_recipe("embedded").model_dump(mode="json")
    content["fast"]["source"] = "trunk"
    (tmp_path / "trunk.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "empty").mkdir()
    names = {"TEACHER": teacher.folder, "EMPTY": tmp_path / "empty", "TRUNK": tmp_path / "trunk.yaml"}
    result = CliRunner().invoke(app, ["fast", *(str(names.get(name, name)) for name in arguments)])
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output


def test_an_iteration_that_the_run_has_not_is_one_sentence(finished: FastRun, chat_base: str) -> None:
    arguments = ["stage", "replies", str(finished.run_dir.path), "--iteration", "2", "--base-folder", chat_base]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "iteration: got 2, allowed is 0 to 1" in result.output


def test_probe_the_teacher_has_already_is_said_to_be_replaced(
    finished: FastRun, folder: Path, chat_base: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("training.cli.read_recipe", lambda name: finished.recipe)
    monkeypatch.setattr("training.cli.carry_out", lambda run: (_ for _ in ()).throw(RunDirError("enough")))
    arguments = ["fast", str(folder), "--recipe", "any", "--base-folder", chat_base, "--run-dir", str(tmp_path / "x")]
    assert "has a probe already: it is replaced" in CliRunner().invoke(app, arguments).output
