"""Second opinions tell apart what they should, on texts where nobody would hesitate."""

import pytest

from training.rewards.reward import load_reward

PROMPT = "How do I grow tomatoes on a balcony?"


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("Polarity", "What a wonderful, happy day.", "What a terrible, sad day."),
        ("ReadingEase", "The cat sat on the mat.", "Institutional considerations necessitate bureaucratic continuity."),
        ("AskingSentences", "Do you have a pot? What size is it.", "You need a pot. It is big?"),
        ("FewCharacters", "In pots.", "In pots that are large enough, and with a lot of sun."),
        ("SharedWords", "Tomatoes need sun, so choose a balcony that has some.", "Write a letter to your bank."),
        ("UnlikeInsults", "Take a large pot and water it daily.", "You are an idiot. I hate you."),
    ],
)
def test_the_better_reply_scores_more(name: str, better: str, worse: str) -> None:
    reward = load_reward(f"training.rewards.second:{name}")
    more, less = reward([PROMPT, PROMPT], [better, worse])
    assert more > less


@pytest.mark.parametrize(
    "name", ["Polarity", "ReadingEase", "AskingSentences", "FewCharacters", "SharedWords", "UnlikeInsults"]
)
def test_a_reply_of_nothing_has_a_score(name: str) -> None:
    assert len(load_reward(f"training.rewards.second:{name}")([PROMPT, ""], ["", "?!"])) == 2
