"""`mavis serve` up to the point where vLLM would be imported, and the commands of other packages."""

import os
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from server import cli
from server.cluster.child import free_port
from server.errors import StartupError
from server.start.server_options import SERVER_OPTIONS
from server.start.stopping import Stop
from server.start.vllm_arguments import ServeOptions
from tests.server.kit import value_config
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.guidance import EXTRA_ARGS_KEY
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.server_process import COMPLAINT_FILE, SERVER_PID, complaining

RUN = [sys.executable, "-m", "server.cli", "serve"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "value_config.json").write_text(value_config("positivity").model_dump_json())
    return tmp_path


def refused(*arguments: str, **environment: str) -> str:
    """What `mavis serve` says on stderr before it exits with status 2."""
    done = subprocess.run(
        [*RUN, *arguments], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_model_without_values_is_refused() -> None:
    assert "--values" in refused("org/model", "--port", "1234")


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    assert "nowhere" in refused("org/model", "--values", str(tmp_path / "nowhere"))


def test_a_port_in_use_is_refused_before_anything_slow(checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert f"port {port}" in refused("org/model", "--port", str(port), "--values", str(checkpoint))


def test_wrong_settings_are_refused(checkpoint: Path) -> None:
    said = refused("org/model", "--values", str(checkpoint), MAVIS_DEFAULT_WEIGHTS='{"humour": 1}')
    assert said.startswith("mavis: MAVIS_DEFAULT_WEIGHTS.humour: got")


def test_no_cache_at_all_is_refused(checkpoint: Path) -> None:
    assert "VALUE_CACHE_GIB" in refused("m", "--values", str(checkpoint), "--value-cache-gib", "0")


def test_options_of_ours_are_taken_out_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def serve(options: ServeOptions, stop: Stop) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(cli, "_serve", serve)
    for of_the_process in ("end_start_at_signals", "adopt_orphans", "end_children"):
        monkeypatch.setattr(cli, of_the_process, lambda: None)
    line = "serve org/model -tp 2 --values a --max-model-len 4096 --compile --values=b --value-cache-gib 2 --seed=1"
    assert CliRunner().invoke(cli.app, line.split()).exit_code == 0
    (options,) = seen
    assert options.model == "org/model"
    assert options.values == ("a", "b")
    assert options.compiles
    assert options.settings == {"value_cache_gib": 2.0}
    assert options.vllm_args == ("-tp", "2", "--max-model-len", "4096", "--seed=1")


class Patient:
    """A check of checkpoints that finds nothing wrong."""

    def __init__(self, config: GuideConfig) -> None:
        self.config = config

    def result(self) -> None: ...


@pytest.fixture
def served(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Namespace], int]], int]:
    """`serve` up to vLLM's server, in whose place stands what is given."""
    args = Namespace(
        revision="main", api_key=None, api_server_count=None, additional_config=None, logits_processors=None
    )
    args.worker_extension_cls = ""
    monkeypatch.setattr(cli, "CheckpointCheck", Patient)
    monkeypatch.setattr(cli, "parse_for_vllm", lambda options, base_model: args)
    for of_vllm in ("refuse_unsupported", "require_plugin", "_set_environment", "end_start_at_signals"):
        monkeypatch.setattr(cli, of_vllm, lambda *_: None)
    for variable in (COMPLAINT_FILE, SERVER_PID, "VLLM_API_KEY"):
        monkeypatch.setenv(variable, "before")

    def serve(server: Callable[[Namespace], int]) -> int:
        monkeypatch.setattr(cli, "run_server", lambda args, stop: server(args))
        port = ("--port", str(free_port()))
        return cli._serve(ServeOptions("org/model", (str(checkpoint),), vllm_args=port), Stop())

    return serve


def test_vllm_is_told_of_the_guide_and_the_workers_of_their_server(
    served: Callable[[Callable[[Namespace], int]], int], checkpoint: Path
) -> None:
    def serve(args: Namespace) -> int:
        told = args.additional_config[EXTRA_ARGS_KEY]
        assert (told["base_model"], told["base_revision"]) == ("org/model", "main")
        assert list(told["checkpoints"]) == [str(checkpoint)] and args.logits_processors
        options = getattr(args, SERVER_OPTIONS)
        assert len(options.keys) == 1 and args.api_key is None and "VLLM_API_KEY" not in os.environ
        assert os.environ[SERVER_PID] == str(os.getpid()) and Path(os.environ[COMPLAINT_FILE]).parent.is_dir()
        return 7

    assert served(serve) == 7
    assert not Path(os.environ[COMPLAINT_FILE]).parent.exists()


def test_what_a_worker_cannot_start_with_is_a_wrong_start(
    served: Callable[[Callable[[Namespace], int]], int],
) -> None:
    def fail(args: Namespace) -> int:
        with pytest.raises(CheckpointError), complaining():
            raise CheckpointError("no room for one text")
        return 1

    with pytest.raises(StartupError, match="no room for one text"):
        served(fail)


class Entry:
    """An entry point of another package."""

    def __init__(self, name: str, loads: bool = True) -> None:
        self.name, self.loads = name, loads

    def load(self) -> typer.Typer:
        if not self.loads:
            raise ImportError("No module named 'peft'")
        return typer.Typer()


def mounted(monkeypatch: pytest.MonkeyPatch, *arguments: str, loads: bool = True) -> list[str | None]:
    monkeypatch.setattr(cli, "entry_points", lambda group: [Entry("train", loads)])
    monkeypatch.setattr(cli, "app", typer.Typer())
    cli._mount_commands(list(arguments))
    return [group.name for group in cli.app.registered_groups]


def test_other_packages_add_commands_which_serve_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mounted(monkeypatch, "train", "run") == ["train"]
    assert mounted(monkeypatch, "--help") == ["train"]
    assert mounted(monkeypatch, "serve") == []


def test_a_command_that_is_not_installed_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mounted(monkeypatch, "train", loads=False) == []
    assert "peft" in capsys.readouterr().err
