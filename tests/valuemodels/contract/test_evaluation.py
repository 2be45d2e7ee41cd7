"""What was measured of a checkpoint, as it lies beside it."""

import json
from pathlib import Path

import pytest

from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.evaluation import EVALUATION_FILE, read_evaluation
from valuemodels.contract.value_config import read_value_config
from valuemodels.sources.embedded import EMBEDDED_VALUES


def test_the_shipped_report_is_of_the_shipped_checkpoint() -> None:
    config = read_value_config(EMBEDDED_VALUES)
    found = read_evaluation(EMBEDDED_VALUES, config.id)
    assert found is not None, "`make evaluate-embedded` writes it again"
    assert all(row.objectives.keys() >= set(config.names) for row in found.rows)


def test_no_report_and_one_of_another_checkpoint_are_none(tmp_path: Path) -> None:
    assert read_evaluation(tmp_path, "any") is None
    (tmp_path / EVALUATION_FILE).write_text((EMBEDDED_VALUES / EVALUATION_FILE).read_text())
    assert read_evaluation(tmp_path, "another") is None


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"checkpoint": "a", "rows": []})])
def test_what_is_no_report_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / EVALUATION_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=r"evaluation\.json is no report of `mavis evaluate`"):
        read_evaluation(tmp_path, "a")
