"""A folder is replaced in one step: whoever looks, and whenever the writer dies, it is there and whole."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from valuemodels.sources import folders
from valuemodels.sources.folders import replacing_folder

WRITER = """
import sys
from pathlib import Path
from valuemodels.sources.folders import replacing_folder
for number in range(10**6):
    with replacing_folder(Path(sys.argv[1])) as partial:
        for name in "ab":
            (partial / name).write_text(str(number))
    print(number, flush=True)
"""


def write(folder: Path, text: str) -> None:
    with replacing_folder(folder) as partial:
        for name in "ab":
            (partial / name).write_text(text)


def test_a_reader_never_finds_it_missing(tmp_path: Path) -> None:
    """Would catch the old folder being removed, or renamed away, before the new one is in its place."""
    folder, missing, stop = tmp_path / "values", [], threading.Event()
    write(folder, "first")

    def look() -> None:
        while not stop.is_set():
            if not (folder / "a").exists() and not folder.exists():
                missing.append(time.monotonic())

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(300):
        write(folder, str(number))
    stop.set()
    reader.join()
    assert missing == [] and (folder / "a").read_text() == "299"
    assert [path.name for path in tmp_path.iterdir()] == ["values"]


def test_a_writer_killed_at_any_moment_leaves_a_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "values"
    write(folder, "first")
    for pause_s in (0.0, 0.003, 0.01, 0.02):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, cwd=os.getcwd())
        assert writer.stdout is not None and writer.stdout.readline()
        time.sleep(pause_s)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        assert (folder / "a").read_text() == (folder / "b").read_text() != ""


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "values", "old")

    def fail_half_way() -> None:
        with replacing_folder(tmp_path / "values") as partial:
            (partial / "a").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert (tmp_path / "values" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["values"]


def test_where_folders_cannot_be_exchanged_it_is_still_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    write(tmp_path / "values", "old")
    write(tmp_path / "values", "new")
    assert (tmp_path / "values" / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["values"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (ended := subprocess.Popen(["true"])).wait()
    dead, alive = (tmp_path / f".values.partial-{pid}" for pid in (ended.pid, os.getppid()))
    dead.mkdir()
    alive.mkdir()
    write(tmp_path / "values", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "values"]


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "values", "old")

    def lose(one: Path, other: Path) -> bool:
        one.rename(tmp_path / "lost")
        return False

    monkeypatch.setattr(folders, "_exchanged", lose)
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "values", "new")
    assert (tmp_path / "values" / "a").read_text() == "old"
