"""A base model's tokenizer with a chat template, for stages that render prompts."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="session")
def chat_base(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """`tiny_base` with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "base"
    shutil.copytree(Path(tiny_base), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)
