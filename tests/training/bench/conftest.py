"""Prompts to time with."""

import json
from pathlib import Path

import pytest

from training.prompts.chat import ChatPrompt


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"write {n}"}) + "\n" for n in range(40)))
    return path


@pytest.fixture
def texts() -> list[ChatPrompt]:
    return [ChatPrompt(f"p{n}", "test", f"write {n}", (3, 4, 5 + n)) for n in range(40)]
