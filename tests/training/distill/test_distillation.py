"""A whole distillation around a fake engine: every stage, in order, up to a checkpoint that serves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from tests.training.fake_engines import RecordingEngine
from training.calibrate import stage as calibrate
from training.cli import app
from training.distill import record as positions
from training.distill.held_out import predict
from training.distill.positions import load_position_data
from training.distill.run import DistillRun, read_teacher
from training.errors import RunDirError
from training.recipe_file import read_recipe
from training.report import copy_checkpoint, print_distillation
from training.runs.run_dir import RunDir
from training.stages import run_stage
from valuemodels.contract.value_config import read_value_config
from valuemodels.models.checkpoint import load_probe, load_value_model, read_tensors
from valuemodels.models.probe import unit_rms


def new_run(folder: Path, base: str, teacher: Path) -> DistillRun:
    recipe = read_recipe("embedded")
    distill = recipe.distill.model_copy(update={"samples": 4, "epochs": 3, "hidden": 24, "rank": 8, "batch_size": 16})
    recipe = recipe.model_copy(update={"limit": 8, "distill": distill})
    return DistillRun(recipe, RunDir(folder), base, teacher=read_teacher(teacher))


def carry_out(run: DistillRun) -> None:
    """Every stage in this process."""
    RecordingEngine.asked = []
    run.write()
    for name in run.stages:
        run_stage(run, name)


@pytest.fixture(autouse=True, scope="module")
def fake_engine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for stage in (positions, calibrate):
            patch.setattr(stage, "RolloutEngine", RecordingEngine)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, chat_base: str, tiny_checkpoint: Path) -> DistillRun:
    """A distillation that is through."""
    run = new_run(tmp_path_factory.mktemp("distill") / "run", chat_base, tiny_checkpoint)
    carry_out(run)
    return run


@pytest.fixture
def folder(run: DistillRun) -> Path:
    """The finished checkpoint."""
    return run.finished("distilled") / "checkpoint"


def test_result_is_the_teacher_and_a_probe(run: DistillRun, folder: Path, tiny_base: str) -> None:
    found, exact = read_value_config(folder), run.teacher.config
    assert found.scorings == ("exact", "fast") and found.format_version == 2
    assert found.id.startswith("tiny+") and found.objectives == exact.objectives
    assert found.probe is not None and found.probe.source == "base"
    tensors, before = read_tensors(folder, part="exact"), read_tensors(run.teacher.folder)
    assert tensors.keys() == before.keys()
    assert all(
        torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    load_value_model(folder, tiny_base, dtype=torch.float32, device="cpu")
    load_probe(folder, tiny_base, device="cpu")


def test_served_probe_gives_the_values_that_were_measured(run: DistillRun, folder: Path, tiny_base: str) -> None:
    """Would catch a bias that half precision spoils, or embeddings scaled otherwise than in the fit."""
    probe, embeddings = load_probe(folder, tiny_base, device="cpu")
    data = load_position_data(run)["test"]
    token_ids = data.token_ids.long()
    with torch.no_grad():
        served = probe(data.hidden, probe.token_table(embeddings)[token_ids], token_ids)
    trained = predict(probe, unit_rms(embeddings), data)
    shift = served - trained
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-4, rtol=0)


def test_fast_scales_cost_what_the_recipe_asks(run: DistillRun, folder: Path) -> None:
    probe, trials = read_value_config(folder).probe, run.stage("probe_scales").summary()["trials"]
    assert probe is not None and probe.scales.keys() == {"warmth", "brevity"}
    for name, scale in probe.scales.items():
        costs = {trial["scale"]: trial["kl_nats"] for trial in trials[name]}
        assert costs[scale] == pytest.approx(run.recipe.calibrate.target_kl, abs=run.recipe.calibrate.tolerance)
    calibrations = [r.guidance for r in RecordingEngine.asked if r.guidance and r.guidance.beta is not None]
    assert calibrations and {guidance.scoring for guidance in calibrations} == {"fast"}


def test_calibration_begins_where_the_fit_says(run: DistillRun) -> None:
    starts = run.stage("probe").summary()["starts"]
    trials = run.stage("probe_scales").summary()["trials"]
    assert {name: tried[0]["scale"] for name, tried in trials.items()} == starts


def test_distilling_the_result_again_gives_it_back(
    run: DistillRun, folder: Path, tmp_path: Path, chat_base: str
) -> None:
    """Exporting over the teacher must neither spoil the run nor pile up ids."""
    copy_checkpoint(run, "distilled", tmp_path / "shipped")
    again = new_run(run.run_dir.path, chat_base, tmp_path / "shipped")
    assert again.teacher.had_probe
    for name in again.stages:
        again.finished(name)
    repeated = new_run(tmp_path / "second", chat_base, tmp_path / "shipped")
    carry_out(repeated)
    second = repeated.finished("distilled") / "checkpoint"
    assert read_value_config(second) == read_value_config(folder)
    tensors = read_tensors(folder)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read_tensors(second).items())


def test_summary_tells_every_objective_and_stage(run: DistillRun, capsys: pytest.CaptureFixture[str]) -> None:
    print_distillation(run)
    said = capsys.readouterr().out
    assert all(word in said for word in ("warmth", "brevity", "positions", "probe_scales", "in all"))


def test_stages_refuse_to_run_before_those_they_need(run: DistillRun, tmp_path: Path) -> None:
    fresh = replace(run, run_dir=RunDir(tmp_path / "run"))
    with pytest.raises(RunDirError, match="positions is not done"):
        run_stage(fresh, "probe")


def test_command_resumes_and_exports(
    run: DistillRun, tmp_path: Path, chat_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done is not done again: the stages' processes would find no engine to fake."""
    monkeypatch.setattr("training.cli.read_recipe", lambda name: run.recipe)
    arguments = ["--run-dir", str(run.run_dir.path), "--base-folder", chat_base, "--limit", "8"]
    teacher, target = str(run.teacher.folder), tmp_path / "out"
    result = CliRunner().invoke(app, ["distill", teacher, "--recipe", "any", "--export", str(target), *arguments])
    assert result.exit_code == 0, result.output
    assert "distilled: done before" in result.output
    assert read_value_config(target).scorings == ("exact", "fast")
    assert read_teacher(target).digest == run.teacher.digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["TINY"], "recipe: got 'tests', allowed is embedded, or the path of a YAML file; or give --recipe"),
        (["TINY", "--recipe", "nothing"], "recipe: got 'nothing'"),
        (["TINY", "--recipe", "TRUNK"], r"distill.source: Input should be 'base' (got trunk)"),
        (["EMPTY"], "has no value_config.json"),
    ],
)
def test_command_ends_with_one_sentence_and_status_2(
    arguments: list[str], message: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = read_recipe("embedded").model_dump(mode="json")
    content["distill"]["source"] = "trunk"
    (tmp_path / "trunk.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "empty").mkdir()
    names = {"TINY": tiny_checkpoint, "EMPTY": tmp_path / "empty", "TRUNK": tmp_path / "trunk.yaml"}
    result = CliRunner().invoke(app, ["distill", *(str(names.get(name, name)) for name in arguments)])
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output


def test_probe_the_teacher_has_already_is_said_to_be_replaced(
    run: DistillRun, chat_base: str, tiny_probed_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("training.cli.read_recipe", lambda name: run.recipe)
    monkeypatch.setattr("training.cli.run_round", lambda run: (_ for _ in ()).throw(RunDirError("enough")))
    arguments = ["distill", str(tiny_probed_checkpoint), "--base-folder", chat_base, "--run-dir", str(tmp_path / "x")]
    assert "has a probe already: it is replaced" in CliRunner().invoke(app, arguments).output
