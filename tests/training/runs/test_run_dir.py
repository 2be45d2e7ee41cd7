"""A run's folder: what is done stays done, what was interrupted goes on, and different settings never mix."""

import shutil
from pathlib import Path

import pytest

from training.errors import RunDirError
from training.runs.run_dir import RunDir, first_difference, read_json, replacing, write_json

INPUTS = {"rollouts": {"samples": 8, "engine": {"dtype": "auto"}}}


def test_stage_is_done_only_once_it_is_finished(tmp_path: Path) -> None:
    stage = RunDir(tmp_path).stage(0, "rollouts", INPUTS)
    assert not stage.is_done
    folder = stage.start()
    assert folder == tmp_path / "iter_0" / "rollouts" and not stage.is_done
    stage.finish({"replies": 3})
    assert stage.is_done and stage.summary() == {"replies": 3}


def test_interrupted_stage_starts_again_in_its_folder(tmp_path: Path) -> None:
    stage = RunDir(tmp_path).stage(0, "rollouts", INPUTS)
    (stage.start() / "shard_0000.parquet").write_bytes(b"kept")
    assert (stage.start() / "shard_0000.parquet").read_bytes() == b"kept"


def test_what_a_killed_process_and_its_libraries_were_writing_is_removed(tmp_path: Path) -> None:
    stage = RunDir(tmp_path).stage(0, "rollouts", INPUTS)
    inner = stage.start() / "base"
    inner.mkdir()
    with replacing(inner / "shard_0000.parquet") as partial:
        partial.write_bytes(b"whole")
        partial.with_name(".tmpLibrary").write_bytes(b"half")
        shutil.copytree(partial.parent, inner / ".shard_0001.parquet.1.partial")
    stage.start()
    assert [path.name for path in inner.iterdir()] == ["shard_0000.parquet"]
    assert (inner / "shard_0000.parquet").read_bytes() == b"whole"


@pytest.mark.parametrize("finished", [False, True])
def test_stage_made_with_other_settings_is_refused_and_the_setting_named(tmp_path: Path, finished: bool) -> None:
    run_dir = RunDir(tmp_path)
    stage = run_dir.stage(0, "rollouts", INPUTS)
    stage.start()
    if finished:
        stage.finish({})
    changed = run_dir.stage(0, "rollouts", {"rollouts": {**INPUTS["rollouts"], "samples": 4}})
    with pytest.raises(RunDirError, match=r"rollouts\.samples = 8, but it is 4 now"):
        changed.start()


def test_iterations_do_not_share_folders(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.stage(0, "fit", INPUTS).start()
    run_dir.stage(1, "fit", {"other": 1}).start()
    assert (tmp_path / "iter_1" / "fit").is_dir()


def test_summary_of_a_stage_that_is_not_done_is_refused(tmp_path: Path) -> None:
    stage = RunDir(tmp_path).stage(0, "rollouts", INPUTS)
    stage.start()
    with pytest.raises(RunDirError, match="is not done"):
        stage.summary()


def test_done_stage_without_its_inputs_is_refused(tmp_path: Path) -> None:
    stage = RunDir(tmp_path).stage(0, "rollouts", INPUTS)
    stage.start()
    stage.finish({})
    (stage.folder / "inputs.json").unlink()
    with pytest.raises(RunDirError, match=r"no inputs\.json"):
        stage.check()


def test_tuples_and_their_json_are_the_same_inputs(tmp_path: Path) -> None:
    stage = RunDir(tmp_path).stage(0, "rewards", {"objectives": ("a", "b")})
    stage.start()
    stage.check()


def test_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_text("old")

    def fail_half_way() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_unreadable_json_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(RunDirError, match=r"broken\.json cannot be read"):
        read_json(tmp_path / "broken.json")


def test_json_survives_the_way_to_disk(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"naïve": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"naïve": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ("a.b", "1", "2")),
        ({"a": 1}, {}, ("a", "1", "null")),
        ({}, {"b": [1]}, ("b", "null", "[1]")),
        ({"a": [1, 2]}, {"a": [2, 1]}, ("a", "[1, 2]", "[2, 1]")),
    ],
)
def test_first_difference_names_where_settings_part(
    before: object, now: object, found: tuple[str, str, str] | None
) -> None:
    assert first_difference(before, now) == found
