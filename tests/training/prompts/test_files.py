"""Prompt files are read strictly, and a prompt never changes its split."""

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.errors import PromptError
from training.prompts.files import Prompt, read_prompts_file, split
from training.recipe_file import read_recipe

EMBEDDED = read_recipe("embedded")
FRACTIONS = EMBEDDED.split
KINDS = {"question", "task", "chat", "opinion", "story", "advice", "explanation", "provocation"}
texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True, max_size=40)


def as_prompts(some_texts: list[str]) -> list[Prompt]:
    return [Prompt.of(text) for text in some_texts]


def write_lines(folder: Path, *lines: str) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def entry(text: str = "Why is ice slippery?", kind: str = "question") -> str:
    return json.dumps({"prompt": text, "kind": kind})


def test_embedded_prompts_load_and_cover_every_kind() -> None:
    prompts = read_prompts_file(EMBEDDED.prompts_path)
    assert len(prompts) >= 400
    lines = EMBEDDED.prompts_path.read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["kind"] for line in lines} == KINDS
    assert all(3 <= len(prompt.text.split()) <= 45 for prompt in prompts)


def test_embedded_prompts_hold_no_near_duplicates() -> None:
    words = [frozenset(prompt.text.lower().strip(".!?").split()) for prompt in read_prompts_file(EMBEDDED.prompts_path)]
    for index, one in enumerate(words):
        assert all(len(one & other) / len(one | other) <= 0.55 for other in words[:index]), sorted(one)


def test_embedded_ids_are_unique_and_follow_from_the_text_alone() -> None:
    prompts = read_prompts_file(EMBEDDED.prompts_path)
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert Prompt.of("Hello there").id == "4e47826698bb"


def test_a_file_round_trips_in_order(tmp_path: Path) -> None:
    path = write_lines(tmp_path, entry("one\u2028line"), entry("zwei Wörter", "chat"))
    assert [prompt.text for prompt in read_prompts_file(path)] == ["one\u2028line", "zwei Wörter"]


def test_a_prompt_is_all_that_a_line_needs(tmp_path: Path) -> None:
    """README's promise: JSON lines with a "prompt"; whatever else stands there is the file's own business."""
    path = write_lines(tmp_path, '{"prompt": "One?"}', "", '{"id": 3, "prompt": " Two? ", "source": "elsewhere"}')
    assert [prompt.text for prompt in read_prompts_file(path)] == ["One?", " Two? "]


def test_an_unescaped_line_separator_inside_a_string_ends_no_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path, '{"prompt": "one\u2028line", "kind": "chat"}')
    assert [prompt.text for prompt in read_prompts_file(path)] == ["one\u2028line"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"absent\.jsonl does not exist"):
        read_prompts_file(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("content", ["", "\n", "  \n\n"])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    with pytest.raises(PromptError, match="is empty"):
        read_prompts_file(path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"prompt": "caf\xe9 or tea", "kind": "chat"}\n')
    with pytest.raises(PromptError, match="cannot be read"):
        read_prompts_file(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not a JSON object"),
        ("nonsense", "not a JSON object"),
        ('"text"', "allowed is an object with a text"),
        ('["a"]', "allowed is an object with a text"),
        ('{"prompt": "a", "prompt": "b", "kind": "chat"}', "a key appears twice"),
        ('{"kind": "chat"}', "allowed is an object with a text"),
        ('{"prompt": 3, "kind": "chat"}', "allowed is an object with a text"),
        ('{"prompt": " ", "kind": "chat"}', "allowed is an object with a text"),
        ('{"prompt": "a\\ud800", "kind": "chat"}', "half of a surrogate pair"),
        (entry(), "an earlier line has the same prompt: 'Why is ice slippery"),
        (entry(kind="chat"), "an earlier line has the same prompt"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number_and_the_reason(tmp_path: Path, line: str, reason: str) -> None:
    path = write_lines(tmp_path, entry(), line, entry("And why is glass?"))
    with pytest.raises(PromptError, match="line 2: ") as caught:
        read_prompts_file(path)
    assert reason in str(caught.value)


def test_the_embedded_split_meets_its_fractions_and_leaves_forty_test_prompts() -> None:
    prompts = read_prompts_file(EMBEDDED.prompts_path)
    parts = split(prompts, FRACTIONS)
    for part, fraction in zip(parts, FRACTIONS.model_dump().values(), strict=True):
        assert len(part) / len(prompts) == pytest.approx(fraction, abs=0.04)
    assert len(parts.test) >= 40


def test_shares_of_many_prompts_are_close_to_the_fractions() -> None:
    prompts = as_prompts([f"prompt {number}" for number in range(20_000)])
    for part, fraction in zip(split(prompts, FRACTIONS), FRACTIONS.model_dump().values(), strict=True):
        assert len(part) / len(prompts) == pytest.approx(fraction, abs=0.01)


@settings(deadline=None)
@given(texts)
def test_the_parts_are_disjoint_and_lose_nothing(some_texts: list[str]) -> None:
    prompts = as_prompts(some_texts)
    parts = split(prompts, FRACTIONS)
    together = [prompt for part in parts for prompt in part]
    assert len(together) == len(prompts)
    assert set(together) == set(prompts)


@settings(deadline=None)
@given(texts, st.randoms(use_true_random=False))
def test_adding_removing_and_reordering_prompts_moves_no_other_prompt(some_texts: list[str], random: Random) -> None:
    # Catches a split that shuffles or cuts by position: held-out prompts would leak into training on every addition.
    prompts = as_prompts(some_texts)
    few = prompts[::2]
    random.shuffle(few)
    for part_of_few, part_of_all in zip(split(few, FRACTIONS), split(prompts, FRACTIONS), strict=True):
        assert set(part_of_few) == set(part_of_all) & set(few)


def test_another_salt_draws_another_split() -> None:
    prompts = read_prompts_file(EMBEDDED.prompts_path)
    assert set(split(prompts, FRACTIONS).test) != set(split(prompts, FRACTIONS, salt="another").test)


def test_repeated_prompts_cannot_be_split() -> None:
    with pytest.raises(PromptError, match="must be unique"):
        split(as_prompts(["Hello", "Hello"]), FRACTIONS)
