"""The prompt files that ship: of several kinds each, and what is held out is not trained on."""

import json
from collections import Counter
from difflib import get_close_matches
from pathlib import Path

import pytest

import training.prompts
from training.prompts.files import read_prompts_file

FOLDER = Path(training.prompts.__file__).parent
NEAR = 0.85


@pytest.mark.parametrize(("name", "least", "each"), [("embedded.jsonl", 400, 30), ("held-out.jsonl", 200, 26)])
def test_every_file_has_enough_prompts_of_every_kind(name: str, least: int, each: int) -> None:
    assert len(read_prompts_file(FOLDER / name)) >= least
    kinds = Counter(json.loads(line)["kind"] for line in (FOLDER / name).read_text(encoding="utf-8").splitlines())
    assert len(kinds) == 8 and min(kinds.values()) >= each


def test_nothing_that_is_held_out_resembles_what_is_trained_on() -> None:
    trained = [prompt.text.lower() for prompt in read_prompts_file(FOLDER / "embedded.jsonl")]
    held_out = [prompt.text.lower() for prompt in read_prompts_file(FOLDER / "held-out.jsonl")]
    found = {text: near for text in held_out if (near := get_close_matches(text, trained, 1, NEAR))}
    assert found == {}
