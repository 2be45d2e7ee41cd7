"""What ends a reply of a run's base model."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from training.runs.base import end_tokens


@pytest.mark.parametrize(("named", "ends"), [(None, [7]), (9, [7, 9]), ([9, 8], [7, 8, 9])])
def test_a_reply_ends_with_what_the_base_says(tmp_path: Path, named: object, ends: list[int]) -> None:
    if named is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": named}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 7}))
    assert end_tokens(str(tmp_path), SimpleNamespace(eos_token_id=7)) == ends
