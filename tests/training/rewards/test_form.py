"""Conciseness and curiosity: what they count, and that the cheap ways to a high score do not work."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.rewards.reward import load_reward, reward_files, reward_source

conciseness = load_reward("conciseness")
curiosity = load_reward("curiosity")
EIGHT = "Cut the onion under water, or chill it."
LONGER = "Cut the onion under water, or chill it well before, since a cold onion gives off less of the gas."


def rate(reply: str, prompt: str = "Why do onions make me cry?") -> tuple[float, float]:
    return conciseness([prompt], [reply])[0], curiosity([prompt], [reply])[0]


def test_fewer_words_to_the_same_end_are_more_concise() -> None:
    assert rate(EIGHT)[0] == 1.0 > rate(LONGER)[0] > rate(LONGER + " " + LONGER)[0] > 0
    assert rate(" ".join([LONGER] * 9))[0] == 0


@pytest.mark.parametrize(
    "reply", ["", "  ", "...", "Cut the onion under water, or chill it", "Cut the onion. Or", "- one\n- two"]
)
def test_breaking_off_and_saying_nothing_are_not_concise(reply: str) -> None:
    assert rate(reply)[0] == 0


def test_a_word_is_no_answer_and_repeating_it_none_either() -> None:
    assert rate("No.")[0] == rate("No, no, no, no, no, no, no, no.")[0] == 1 / 8


@pytest.mark.parametrize("end", [".", "!", "?", "…", '."', ".)", ".**", ". \n"])
def test_a_sentence_may_end_in_many_ways(end: str) -> None:
    assert rate(EIGHT.removesuffix(".") + end)[0] == 1.0


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("What do you cook? And how long does it take?", 2),
        ("What do you cook? What do you cook? WHAT DO YOU COOK?!", 1),
        ("It is late. Is it not?", 0),  # nothing but function words
        ("Right? Really? Hm??? ? ?", 0),
        ("Why do onions make me cry?", 0),  # the prompt's own
        ("Is the soup hot? Is the bread warm? Is the wine cold? Is the cake sweet?", 3),
        ("I wonder what you cook.", 0),
        ("Do you cook soup", 0),
    ],
)
def test_questions_are_counted_once_each_and_up_to_a_cap(reply: str, score: float) -> None:
    assert rate(reply)[1] == score


@pytest.mark.parametrize("name", ["conciseness", "curiosity", "helpfulness", "harmlessness"])
def test_a_run_depends_on_how_texts_are_taken_apart(name: str) -> None:
    """That code is in another file than the reward's own: a run that was made with another must not go on."""
    assert reward_source(name).name != "words.py" and reward_files(name) == [reward_source("positivity")]


@settings(deadline=None)
@given(st.text(max_size=200), st.text(max_size=60))
def test_scores_of_any_text_are_in_range(reply: str, prompt: str) -> None:
    brief, curious = rate(reply, prompt)
    assert 0 <= brief <= 1 and curious in (0, 1, 2, 3)
