"""How a command ends: in one sentence where that was foreseen, with a traceback where it was not."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from safetensors import SafetensorError
from typer.testing import CliRunner, Result

from training.errors import RunDirError
from training.runs.command import errors_in_one_sentence
from training.runs.run_dir import write_json

FULL = Path("/dev/full")


def ended(body: Callable[[], object]) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command() -> None:
        with errors_in_one_sentence():
            body()

    return CliRunner().invoke(app)


def write_text() -> None:
    with FULL.open("w") as file:
        file.write("x")
        file.flush()


def write_parquet() -> None:
    # By an open file: given a path, the library removes what it could not write, which here is a device.
    with FULL.open("wb") as file:
        pq.write_table(pa.table({"a": list(range(100_000))}), file)


def replace_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        write_text()

    monkeypatch.setattr("os.replace", refuse)
    write_json(folder / "done.json", {})


@pytest.mark.parametrize("body", [write_text, write_parquet])
def test_a_full_disk_is_one_sentence_whoever_meets_it(body: Callable[[], object]) -> None:
    result = ended(body)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "the disk is full" in result.output and "run the same command again" in " ".join(result.output.split())


def test_a_full_disk_leaves_neither_half_a_file_nor_a_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "done.json", {"old": True})
    result = ended(lambda: replace_file(tmp_path, monkeypatch))
    assert result.exit_code == 2 and "the disk is full" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["done.json"] and "old" in (tmp_path / "done.json").read_text()


def test_a_library_that_tells_it_in_its_own_words_is_understood() -> None:
    def refuse() -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    result = ended(refuse)
    assert result.exit_code == 2 and "the disk is full" in result.output


def test_an_error_of_ours_is_its_sentence_and_a_bug_is_not_hidden() -> None:
    def refuse() -> None:
        raise RunDirError("it [cannot] be")

    result = ended(refuse)
    assert result.exit_code == 2 and "error: it [cannot] be" in result.output
    assert isinstance(ended(lambda: 1 / 0).exception, ZeroDivisionError)
