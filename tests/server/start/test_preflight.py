"""What is found wrong before an engine starts, each as one sentence."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.errors import StartupError
from server.start.preflight import CheckpointCheck, check_compiler, check_port, early_flags, find_checkpoints
from tests.server.kit import value_config
from valuemodels.contract.guide_config import GuideConfig


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_in_use_is_named(taken_port: int) -> None:
    with pytest.raises(StartupError, match=rf"^port {taken_port} on 127\.0\.0\.1 is already in use; .*--port"):
        check_port(early_flags(["--port", str(taken_port)], "127.0.0.1"))


def test_a_free_port_is_free_afterwards(taken_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    for _ in range(2):
        check_port(early_flags([f"--port={free}", "--max-model-len", "4096"], "127.0.0.1"))


@pytest.mark.parametrize("flags", [["--uds", "/tmp/x"], ["--config", "x.yaml"]])
def test_an_address_that_is_not_on_the_command_line_is_left_to_vllm(flags: list[str], taken_port: int) -> None:
    check_port(early_flags([*flags, "--port", str(taken_port)], "127.0.0.1"))


@pytest.mark.parametrize("port", ["70000", "-1", "0"])
def test_a_port_that_cannot_be_is_one_sentence(port: str) -> None:
    with pytest.raises(StartupError, match=f"--port: got {port}, allowed is 1 to 65535"):
        check_port(early_flags([f"--port={port}"], "127.0.0.1"))


def test_a_host_that_is_not_ours_is_one_sentence() -> None:
    with pytest.raises(StartupError, match=r"cannot listen at port 8123 on 192\.0\.2\.1"):
        check_port(early_flags(["--port=8123"], "192.0.2.1"))


def test_a_flag_without_its_value_is_one_sentence() -> None:
    with pytest.raises(StartupError, match="--port"):
        early_flags(["--port", "many"], "127.0.0.1")


def test_vllms_other_flags_are_not_looked_at() -> None:
    flags = early_flags(["--revision", "abc", "--host=::1", "--hostile", "x", "--rev", "no"], "127.0.0.1")
    assert (flags.host, flags.port, flags.revision) == ("::1", 8000, "abc")


def test_compiling_needs_a_compiler(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"--compile: torch compiles with g\+\+, which is not there"):
        check_compiler({"PATH": str(tmp_path)})
    other = tmp_path / "another"
    other.touch(0o755)
    check_compiler({"PATH": str(tmp_path), "CXX": "another"})


def test_a_missing_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"^--values: .*nowhere") as caught:
        find_checkpoints([str(tmp_path / "nowhere")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "has no value_config.json"),
        ("{", "cannot be read as JSON"),
        ('{"format_version": 9}', "format_version 9"),
        ('{"format_version": 1}', "id: Field required"),
    ],
)
def test_a_wrong_checkpoint_is_one_sentence(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "value_config.json").write_text(content)
    with pytest.raises(StartupError, match=sentence):
        find_checkpoints([str(tmp_path)])


def test_checkpoints_are_found_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "value_config.json").write_text(value_config(name).model_dump_json())
    folders, configs = find_checkpoints([str(tmp_path / "b"), str(tmp_path / "a")])
    assert [folder.name for folder in folders] == ["b", "a"]
    assert [config.names for config in configs] == [("b",), ("a",)]


class Finished:
    """A process that has ended."""

    def __init__(self, returncode: int, stderr: str) -> None:
        self.returncode, self.stderr = returncode, stderr

    def communicate(self) -> tuple[None, str]:
        return None, self.stderr


@pytest.mark.parametrize(
    ("returncode", "stderr", "sentence"),
    [
        (2, "a warning\nthe tokenizer is another\n", "the tokenizer is another"),
        (-9, "", "ended with status -9"),
    ],
)
def test_the_checks_last_line_is_the_sentence(
    monkeypatch: pytest.MonkeyPatch, returncode: int, stderr: str, sentence: str
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: Finished(returncode, stderr))
    with pytest.raises(StartupError, match=f"^{sentence}|{sentence}$"):
        CheckpointCheck(GuideConfig(("/v",), "base")).result()


def test_the_check_is_told_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def start(command: list[str], **kwargs: object) -> Finished:
        commands.append(command)
        return Finished(0, "")

    monkeypatch.setattr(subprocess, "Popen", start)
    CheckpointCheck(GuideConfig(("/v", "/w"), "base", "abc", scorings=("fast",))).result()
    head = [sys.executable, "-m", "valuemodels.models.check", "/v", "/w", "--base", "base"]
    assert commands == [[*head, "--base-revision", "abc", "--scoring", "fast"]]
