"""Prompts from a dataset: rows become prompts as the recipe says, and what cannot be used is one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.errors import PromptError
from training.prompts.datasets import load_dataset_prompts, load_prompts
from training.prompts_recipe import DatasetRecipe
from training.recipe import ObjectiveRecipe, Recipe
from training.recipe_file import read_recipe
from training.runs.run import Run
from training.runs.run_dir import RunDir

HH = [
    {"chosen": "\n\nHuman: How do I bake?\n\nAssistant: Slowly.\n\nHuman: Why?\n\nAssistant: Yeast.", "rejected": "x"},
    {"chosen": "\n\nHuman: How do I bake?\n\nAssistant: No idea.", "rejected": "x"},
    {"chosen": "\n\nHuman: What is a fjord?\n\nAssistant: An inlet.", "rejected": "x"},
]
POSTS: list[dict[str, Any]] = [{"info": {"post": "word " * 40 + str(number), "title": "t"}} for number in range(3)]
POSTS.append({"info": {"post": None, "title": "t"}})
SAFE = [{"prompt": "How are locks picked?"}, {"prompt": "How are locks made?"}]


def folder(path: Path, rows: list[dict[str, Any]], part: str = "train") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prompts_of(path: Path, **changes: Any) -> list[str]:
    return [prompt.text for prompt in load_dataset_prompts(DatasetRecipe(dataset=str(path), **changes))]


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("hh", HH, ["How do I bake?", "What is a fjord?"]),
        (
            "summarize",
            POSTS,
            [f"Generate a one-sentence summary of this post.\n\n{'word ' * 40}{number}" for number in range(3)],
        ),
        ("saferlhf", SAFE, [f"BEGINNING OF CONVERSATION: USER: {row['prompt']} ASSISTANT:" for row in SAFE]),
    ],
)
def test_the_papers_datasets_give_the_papers_prompts(
    tmp_path: Path, name: str, rows: list[dict[str, Any]], expected: list[str]
) -> None:
    source = read_recipe(name).prompts
    assert isinstance(source, DatasetRecipe)
    folder(tmp_path / (source.data_dir or ""), rows)
    local = source.model_copy(update={"dataset": str(tmp_path)})
    assert [prompt.text for prompt in load_dataset_prompts(local)] == expected


def test_another_part_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    folder(tmp_path, SAFE[:1])
    folder(tmp_path, SAFE[1:], "test")
    assert prompts_of(tmp_path) == [SAFE[0]["prompt"]] and prompts_of(tmp_path, part="test") == [SAFE[1]["prompt"]]


def test_a_lot_does_not_depend_on_the_order_and_grows(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {number}"} for number in range(40)]
    one, other = folder(tmp_path / "one", rows), folder(tmp_path / "other", rows[::-1])
    five, nine = prompts_of(one, at_most=5), prompts_of(one, at_most=9)
    assert len(five) == 5 and set(five) < set(nine) and len(nine) == 9
    assert set(prompts_of(other, at_most=5)) == set(five) and five != [row["prompt"] for row in rows[:5]]
    assert len(prompts_of(one, at_most=99)) == 40


def test_what_is_too_short_or_too_long_is_left_out(tmp_path: Path) -> None:
    folder(tmp_path, [{"prompt": "a" * length} for length in (3, 4, 6, 7)])
    assert [len(text) for text in prompts_of(tmp_path, characters=(4, 6))] == [4, 6]
    with pytest.raises(PromptError, match="gives none of 50 to 60 characters"):
        prompts_of(tmp_path, characters=(50, 60))


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    folder(tmp_path, SAFE)
    for template in ("{question}", "{prompt[a]}", "{prompt", "{}"):
        with pytest.raises(PromptError, match=r"prompts\.template: got .*columns of .*: prompt"):
            prompts_of(tmp_path, template=template)


def test_a_dataset_that_cannot_be_loaded_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (str(tmp_path / "nowhere"), "nobody/nothing"):
        with pytest.raises(PromptError, match="cannot be loaded") as caught:
            prompts_of(Path(name))
        assert "\n" not in str(caught.value)
    folder(tmp_path, SAFE)
    with pytest.raises(PromptError, match="cannot be loaded"):
        prompts_of(tmp_path, part="validation")


def test_a_run_refuses_to_go_on_with_other_rows(tmp_path: Path, tiny_base: str) -> None:
    """By the files' content; the same files at the same place change nothing."""
    objective = ObjectiveRecipe(name="a", description="a", reward="positivity")
    rows = folder(tmp_path / "rows", SAFE)
    source = DatasetRecipe(dataset=str(rows))
    recipe = Recipe(name="own", prompts=source, objectives=(objective,))
    run = Run(recipe, RunDir(tmp_path / "run"), tiny_base)
    before = run.prompt_inputs()
    assert run.prompt_inputs() == before and load_prompts(recipe)
    folder(tmp_path / "rows", [*SAFE, {"prompt": "one more"}])
    assert run.prompt_inputs() != before
