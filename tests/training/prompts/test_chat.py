"""Prompts as the server would render them, and prompt files of other people."""

from pathlib import Path

from transformers import AutoTokenizer

from training.prompts.chat import ChatPrompt, chat_prompts, read_prompt_set, render_chat, write_prompt_set
from training.prompts.files import Prompt
from training.recipe import Fractions

HALVES = Fractions(train=0.5, validation=0.25, test=0.25)


def test_chat_is_rendered_up_to_where_the_reply_begins(chat_base: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_base)
    expected = tokenizer("user: hello\nassistant:", add_special_tokens=False)["input_ids"]
    assert render_chat(tokenizer, "hello") == tuple(expected)


def test_limit_keeps_the_first_prompts_of_each_split(chat_base: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_base)
    prompts = [Prompt.of(f"prompt {number}") for number in range(60)]
    whole = chat_prompts(tokenizer, prompts, HALVES)
    limited = chat_prompts(tokenizer, prompts, HALVES, limit=3)
    for split in ("train", "validation", "test"):
        assert [p for p in limited if p.split == split] == [p for p in whole if p.split == split][:3]


def test_prompt_set_survives_the_way_to_disk(tmp_path: Path) -> None:
    prompts = [ChatPrompt("a", "train", "naïve\u2028line", (1, 2)), ChatPrompt("b", "test", "x", (3,))]
    write_prompt_set(tmp_path / "prompts.jsonl", prompts)
    assert read_prompt_set(tmp_path / "prompts.jsonl") == prompts
