"""One more objective from replies that are there: nothing of the base is sampled again."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from tests.training.fake_engines import RecordingEngine
from tests.training.fast.conftest import carry_out
from training.cli import app
from training.errors import RunDirError
from training.fast.run import FastRun, open_fast_run, slider_run
from training.recipe_file import parse_objective
from valuemodels.contract.value_config import read_value_config
from valuemodels.models.checkpoint import load_probe

REWARD = 'tests.training.letters:Letters {"wanted": "qrstuvwxyz"}'
OBJECTIVE = parse_objective("lateness", "Late letters.", REWARD)


@pytest.fixture(scope="module", params=["finished", "looking"])
def slider(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FastRun:
    made: FastRun = request.getfixturevalue(request.param)
    run_dir = tmp_path_factory.mktemp("slider") / "run"
    return carry_out(slider_run(made.run_dir.path, OBJECTIVE, run_dir, Path(made.base_folder)))


def test_only_calibration_samples(slider: FastRun) -> None:
    guided = [request.guidance for request in RecordingEngine.asked]
    assert guided and all(guidance and guidance.weights == {"lateness": 1.0} for guidance in guided)
    assert not any((slider.run_dir.path / "iter_0" / name).exists() for name in ("prompts", "invented", "replies"))


def test_result_is_a_probe_that_learned_the_new_reward(slider: FastRun, tiny_base: str) -> None:
    folder = slider.finished("probe_export") / "checkpoint"
    config = read_value_config(folder)
    assert config.names == ("lateness",) and config.scorings == ("fast",)
    assert config.objectives[0].reward == REWARD and config.id.startswith("lateness+")
    assert config.probe is not None and config.probe.metrics["lateness"]["validation_gain"] > 0.5
    probe, embeddings = load_probe(folder, tiny_base, device="cpu")
    tokens = torch.arange(2, 28)
    hidden = torch.randn(50, embeddings.shape[1], generator=torch.Generator().manual_seed(3))
    table = probe.token_table(embeddings)[tokens].expand(50, -1, -1)
    with torch.no_grad():
        values = probe(hidden, table, tokens.expand(50, -1)).mean(0)[:, 0]
    assert values[16:].mean() > values[:16].mean() + 0.1


def test_stages_processes_find_the_replies(slider: FastRun) -> None:
    opened = open_fast_run(slider.run_dir.path, Path(slider.base_folder))
    assert opened == slider and opened.stage("replies").is_done


def test_replies_that_are_not_there_or_were_made_otherwise_are_refused(
    finished: FastRun, slider: FastRun, fresh: FastRun, tmp_path: Path
) -> None:
    fresh.write()
    unfinished = slider_run(fresh.run_dir.path, OBJECTIVE, tmp_path / "slider", Path(fresh.base_folder))
    with pytest.raises(RunDirError, match="prompts is not done"):
        unfinished.stage("prompts")
    with pytest.raises(RunDirError, match="name: got 'warmth', allowed is one that"):
        slider_run(finished.run_dir.path, parse_objective("warmth", "", REWARD), tmp_path, Path(finished.base_folder))
    other = FastRun(
        slider.recipe.model_copy(update={"seed": 99}), slider.run_dir, slider.base_folder, cached=slider.cached
    )
    with pytest.raises(RunDirError, match=r"invented\.seed = 17, but it is 99 now"):
        other.stage("replies")


@pytest.fixture
def call(finished: FastRun, tmp_path: Path) -> Callable[..., Result]:
    def invoke(*arguments: str) -> Result:
        given = {
            "--from": str(finished.run_dir.path),
            "--name": "lateness",
            "--description": "Late letters.",
            "--run-dir": str(tmp_path / "run"),
            "--base-folder": finished.base_folder,
        }
        given |= dict(zip(arguments[1::2], arguments[2::2], strict=True))
        return CliRunner().invoke(app, ["slider", arguments[0], *(part for pair in given.items() for part in pair)])

    return invoke


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "reward 'nothing' is unknown; allowed: classifier"),
        ([REWARD, "--name", "Not A Name"], "name: String should match pattern"),
        ([REWARD, "--from", "no-such-folder"], "no-such-folder holds no training run"),
        (['positivity {"most": 1}'], "reward 'positivity' cannot be made with parameters"),
    ],
)
def test_command_ends_with_one_sentence_and_status_2(
    call: Callable[..., Result], arguments: list[str], message: str
) -> None:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output and "Traceback" not in result.output


def test_command_resumes_and_exports(slider: FastRun, call: Callable[..., Result], tmp_path: Path) -> None:
    assert slider.cached is not None
    made, folder = str(slider.cached.path), str(slider.run_dir.path)
    result = call(REWARD, "--from", made, "--run-dir", folder, "--export", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "replies: done before" in result.output and "probe_export: done before" in result.output
    assert read_value_config(tmp_path / "out").names == ("lateness",)
