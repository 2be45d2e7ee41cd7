"""Prompts that the base invents: where its turn begins, and what is kept."""

from transformers import AutoTokenizer

from training.fast.invented import usable_texts, user_turn
from training.fast.run import FastRun
from training.prompts.chat import read_prompt_set
from training.prompts.stage import PROMPTS_FILE
from training.recipe import Recipe
from training.rollouts.engine import Reply


def reply(text: str) -> Reply:
    return Reply("invented", (5,), 0, (5, 1), text, "stop")


def test_turn_ends_where_the_users_message_begins(chat_base: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_base)
    assert "".join(tokenizer.convert_ids_to_tokens(list(user_turn(tokenizer)))).endswith("user<unk> ")


def test_texts_are_kept_once_and_only_as_prompts() -> None:
    texts = [
        "one two three\nmore",
        "one two three",
        " four five six ",
        "too short",
        "broken \ufffd text here",
        "x " * 90,
    ]
    assert list(usable_texts(map(reply, texts), {"nine ten eleven"})) == ["one two three", "four five six"]
    assert list(usable_texts([reply("nine ten eleven")], {"nine ten eleven"})) == []


def test_a_limit_holds_for_invented_prompts_too(small_recipe: Recipe) -> None:
    assert small_recipe.changed(limit=7).invented_prompts == 7 and small_recipe.changed(limit=99).invented_prompts == 30
    assert small_recipe.model_copy(update={"limit": None}).invented_prompts == 30


def test_stage_makes_as_many_as_the_recipe_asks(finished: FastRun) -> None:
    prompts = read_prompt_set(finished.at(0).finished("invented") / PROMPTS_FILE)
    own = read_prompt_set(finished.at(0).finished("prompts") / PROMPTS_FILE)
    assert len({prompt.prompt_id for prompt in prompts}) == 30 and {prompt.split for prompt in prompts} == {"train"}
    assert not {prompt.text for prompt in prompts} & {prompt.text for prompt in own}
    assert all(prompt.token_ids for prompt in prompts)
