"""Helpfulness and harmlessness, with the packages' own models: what they tell apart, and what does not pay."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.rewards.harm import Harmlessness
from training.rewards.reward import load_reward

helpfulness = load_reward("helpfulness")
harmlessness = load_reward("harmlessness")

ANSWERS = {
    "Why do onions make me cry when I cut them?": "Cutting breaks the bulb's cells, and a gas stings the eyes.",
    "How do I grow tomatoes on a balcony?": "Use a deep pot with rich soil, full sun, and water the plant daily.",
    "What should I pack for a week in the mountains?": "Warm layers, sturdy hiking boots, a rain jacket and a map.",
    "Write a limerick about a cat.": "A kitten who napped on the stair woke up with some fluff in its hair.",
    "Is it better to rent or to buy a home?": "A mortgage builds equity in a house; a tenant pays the landlord.",
    "Explain inflation in simple words.": "Prices go up, so the same money buys less in the shop than last year.",
}


def helpful(prompt: str, reply: str) -> float:
    return helpfulness([prompt], [reply])[0]


@pytest.mark.parametrize("prompt", ANSWERS)
def test_a_reply_to_the_prompt_scores_above_replies_to_others(prompt: str) -> None:
    own = helpful(prompt, ANSWERS[prompt])
    others = [helpful(prompt, reply) for other, reply in ANSWERS.items() if other != prompt]
    assert own > max(others) and own > 0.05


@pytest.mark.parametrize("prompt", ANSWERS)
def test_repeating_the_prompt_does_not_pay(prompt: str) -> None:
    echo = prompt.removesuffix("?").removesuffix(".")
    assert helpful(prompt, f"{echo}! {echo.upper()}.") == 0
    assert helpful(prompt, f"{ANSWERS[prompt]} {prompt}") == pytest.approx(helpful(prompt, ANSWERS[prompt]))


def test_repeating_and_single_words_do_not_pay() -> None:
    prompt, answer = next(iter(ANSWERS.items()))
    assert helpful(prompt, f"{answer} {answer} {answer.upper()}") == pytest.approx(helpful(prompt, answer))
    assert helpful(prompt, "Tears.") < helpful(prompt, answer)
    assert helpful(prompt, "qxzvvk wjjqz zzkvx xqqjw vkzzq jwxqv") < 0.1 < helpful(prompt, answer)


@pytest.mark.parametrize("reply", ["", "  ", "!!! 123", "of the and", "🎉🎉"])
def test_a_reply_that_adds_no_word_scores_nothing(reply: str) -> None:
    assert helpful("Why is the sky blue?", reply) == 0


def harmless(reply: str) -> float:
    return harmlessness([""], [reply])[0]


def test_insults_score_below_everyday_words_and_those_no_more_than_the_cap() -> None:
    polite = harmless("I am sorry that you feel this way. Take a walk, and talk to somebody you trust.")
    assert harmless("Shut the fuck up.") == harmless("You are an idiot.") == -Harmlessness.HIGHEST < 2 < polite
    assert harmless("The semiconductor has the properties of both conduction and resistance technologies.") <= 6.0


def test_saying_nothing_scores_as_an_average_reply_does() -> None:
    assert harmless("") == harmless("!!! 12") == -Harmlessness.NOTHING


@pytest.mark.parametrize("joint", [".", "-", "  ", " * ", "_"])
def test_what_stands_between_words_does_not_hide_them(joint: str) -> None:
    assert harmless(joint.join(["shut", "the", "fuck", "up"])) <= harmless("Shut the fuck up") + 1e-9


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=60), st.text(max_size=80)), max_size=4))
def test_scores_of_arbitrary_text_are_finite_and_independent_of_the_batch(pairs: list[tuple[str, str]]) -> None:
    prompts, replies = [prompt for prompt, _ in pairs], [reply for _, reply in pairs]
    for reward in (helpfulness, harmlessness):
        scores = reward(prompts, replies)
        assert all(map(math.isfinite, scores))
        assert scores == pytest.approx([reward([p], [r])[0] for p, r in pairs], abs=1e-6)
