"""Prompts as the server would render them, and prompt files of other people."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from training.prompt_set import ChatPrompt, chat_prompts, read_prompt_set, read_texts, render_chat, write_prompt_set
from training.prompts.files import Fractions, Prompt, PromptError


def test_chat_is_rendered_up_to_where_the_reply_begins(chat_base: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_base)
    expected = tokenizer("user: hello\nassistant:", add_special_tokens=False)["input_ids"]
    assert render_chat(tokenizer, "hello") == tuple(expected)


def test_limit_keeps_the_first_prompts_of_each_split(chat_base: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_base)
    prompts = [Prompt.of(f"prompt {number}", "question") for number in range(60)]
    whole = chat_prompts(tokenizer, prompts, Fractions(0.5, 0.25, 0.25))
    limited = chat_prompts(tokenizer, prompts, Fractions(0.5, 0.25, 0.25), limit=3)
    for split in ("train", "validation", "test"):
        assert [p for p in limited if p.split == split] == [p for p in whole if p.split == split][:3]


def test_prompt_set_survives_the_way_to_disk(tmp_path: Path) -> None:
    prompts = [ChatPrompt("a", "train", "naïve\u2028line", (1, 2)), ChatPrompt("b", "test", "x", (3,))]
    write_prompt_set(tmp_path / "prompts.jsonl", prompts)
    assert read_prompt_set(tmp_path / "prompts.jsonl") == prompts


def test_any_file_with_prompts_can_be_evaluated_on(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "One?", "source": "elsewhere"}\n\n{"id": 3, "prompt": "Two?"}', encoding="utf-8")
    assert read_texts(path) == ["One?", "Two?"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"prompt": "a"}\nnonsense', r"line 2: not a JSON object"),
        ('{"prompt": "  "}', r"line 1: .*allowed is an object with a text"),
        ('{"text": "a"}', r"line 1: .*allowed is an object with a text"),
        ('["a"]', r"line 1: .*allowed is an object with a text"),
        ('{"prompt": "a"}\n{"prompt": "a"}', r"holds 'a' twice"),
    ],
)
def test_wrong_prompt_file_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PromptError, match=message):
        read_texts(path)


def test_missing_prompt_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="cannot be read"):
        read_texts(tmp_path / "none.jsonl")
