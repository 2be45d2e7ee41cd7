"""Rewards are finite and checked, and the cheap ways to raise a built-in one do not work."""

import math
import sys
import time
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wordfreq import zipf_frequency

from training.errors import RewardError
from training.rewards.reward import Reward, checked_scores, load_reward, refuse_constant

SENTENCES = (
    "I love this lovely garden.",
    "The weather was terrible!",
    "Nobody was happy about it, but the food was good.",
    "Is the train late again?",
    "It is not bad at all.",
    "We hate waiting…",
    "The table is brown.",
    "Thanks, my dear friend!",
)
sentence_lists = st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=8)
replies = st.one_of(st.text(max_size=200), sentence_lists.map(" ".join))
invented_words = st.text("qxzvjkw", min_size=7, max_size=12).filter(lambda word: zipf_frequency(word, "en") == 0)

positivity = load_reward("positivity")
simplicity = load_reward("simplicity")


def rate(reward: Reward, reply: str) -> float:
    return reward(["prompt"], [reply])[0]


class Fixed:
    """A reward that returns what it was given."""

    def __init__(self, *scores: float) -> None:
        self._scores = list(scores)

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        return self._scores


@pytest.mark.parametrize("reward_id", ["positivity", "simplicity"])
def test_every_shipped_reward_loads_and_scores(reward_id: str) -> None:
    assert len(load_reward(reward_id)(["a"], ["A lovely day."])) == 1


def test_an_unknown_reward_is_refused_with_the_list_of_those_that_exist() -> None:
    allowed = (
        "classifier, combined, conciseness, curiosity, endpoint, harmlessness, helpfulness, judge, positivity, "
        "simplicity, module:Class and module:function"
    )
    with pytest.raises(RewardError, match=f"reward 'humour' is unknown; allowed: {allowed}"):
        load_reward("humour")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(RewardError, match=r"'simplicity' needs a package that is not installed: .*wordfreq"):
        load_reward("simplicity")


def test_good_scores_are_passed_through_in_order() -> None:
    assert checked_scores("fixed", Fixed(2, 0.5), ["a", "b"], ["c", "d"]) == [2.0, 0.5]
    assert checked_scores("fixed", Fixed(), [], []) == []


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([1.0], "returned 1 scores for 2 replies"),
        ([1.0, 2.0, 3.0], "returned 3 scores for 2 replies"),
        ([1.0, math.nan], "scored reply 1 nan"),
        ([-math.inf, 1.0], "scored reply 0 -inf"),
        ([1.0, None], "scored reply 1 None"),
    ],
)
def test_what_is_no_score_is_refused(scores: list[float], reason: str) -> None:
    with pytest.raises(RewardError, match="reward 'fixed'") as caught:
        checked_scores("fixed", Fixed(*scores), ["a", "b"], ["c", "d"])
    assert reason in str(caught.value)


def test_scores_that_are_all_the_same_are_refused_as_a_whole() -> None:
    refuse_constant("fixed", [0.3])
    refuse_constant("fixed", [0.3, 0.3, 0.4])
    with pytest.raises(RewardError, match=r"reward 'fixed' scored all 2 replies 0\.3"):
        refuse_constant("fixed", [0.3, 0.3])


def test_unpaired_prompts_and_replies_are_refused() -> None:
    with pytest.raises(RewardError, match="1 prompts but 2 replies"):
        checked_scores("fixed", Fixed(1.0, 2.0), ["a"], ["c", "d"])


@pytest.mark.parametrize("reward_id", ["positivity", "simplicity"])
@settings(deadline=None)
@given(replies=st.lists(st.text(max_size=80), max_size=5))
def test_scores_of_arbitrary_text_are_finite_and_independent_of_the_batch(reward_id: str, replies: list[str]) -> None:
    reward = {"positivity": positivity, "simplicity": simplicity}[reward_id]
    scores = reward([""] * len(replies), replies)
    assert all(math.isfinite(value) for value in scores)
    assert scores == [rate(reward, reply) for reply in replies]


@settings(deadline=None)
@given(replies)
def test_positivity_stays_within_its_range(reply: str) -> None:
    assert -1 <= rate(positivity, reply) <= 1


def test_positivity_orders_warm_neutral_and_cold_replies() -> None:
    warm = rate(positivity, "What a wonderful idea! I am happy to help you.")
    cold = rate(positivity, "That is a horrible idea. I hate it.")
    assert warm > 0.4 > rate(positivity, "The table is brown.") == 0 > -0.4 > cold


def test_positivity_reads_negation() -> None:
    assert rate(positivity, "The film was not good.") < 0 < rate(positivity, "The film was good.")
    assert rate(positivity, "I don\u2019t like it.") == rate(positivity, "I don't like it.") < 0


@pytest.mark.parametrize("reply", ["", "   ", "\n\n", "123 456", "!!! ...", "🎉🎉", ":) :D"])
def test_positivity_of_a_reply_without_words_is_zero(reply: str) -> None:
    assert rate(positivity, reply) == 0


@settings(deadline=None)
@given(sentence_lists, st.randoms(use_true_random=False))
def test_the_order_of_sentences_does_not_change_positivity(sentences: list[str], random: Random) -> None:
    shuffled = list(sentences)
    random.shuffle(shuffled)
    assert rate(positivity, " ".join(shuffled)) == rate(positivity, " ".join(sentences))


@settings(deadline=None)
@given(sentence_lists, st.data())
def test_repeating_a_sentence_does_not_change_positivity(sentences: list[str], data: st.DataObject) -> None:
    # Catches a plain mean over sentences: the reply that repeats its warmest sentence would then win.
    again = data.draw(st.sampled_from(sentences))
    shouted = again.upper().rstrip(".!?…") + "!!!"
    once = rate(positivity, " ".join(sentences))
    assert rate(positivity, " ".join([*sentences, again])) == once
    assert rate(positivity, "\n".join([*sentences, shouted])) == once


@pytest.mark.parametrize("phrase", ["love", "so happy", "I love you and you love me"])
@pytest.mark.parametrize("joint", [" ", ", ", " - "])
def test_looping_on_a_phrase_within_a_sentence_does_not_pay(phrase: str, joint: str) -> None:
    assert rate(positivity, joint.join([phrase] * 12)) == rate(positivity, phrase)


def test_shouting_and_emoji_do_not_pay() -> None:
    assert rate(positivity, "GREAT food!!! 😀😀 :)") == rate(positivity, "Great food.")


def test_list_numbers_are_no_sentences() -> None:
    assert rate(positivity, "1. A great idea\n2. A good idea") == rate(positivity, "A great idea. A good idea.")


def test_simplicity_prefers_everyday_words() -> None:
    plain = rate(simplicity, "Plants use light from the sun to make food out of air and water.")
    learned = rate(simplicity, "Photosynthesis converts luminous radiation into carbohydrates via chloroplasts.")
    assert plain > simplicity_prior() > learned


def simplicity_prior() -> float:
    return rate(simplicity, "")


@pytest.mark.parametrize(
    "reply", ["", "the", "and of the it is not", "12 345 6.7", "a b c d x y", "**- # |", "don't I'll"]
)
def test_a_reply_without_content_words_scores_the_neutral_constant(reply: str) -> None:
    assert rate(simplicity, reply) == simplicity_prior()


def test_one_common_word_barely_moves_simplicity() -> None:
    # Catches a mean without the prior: the reply "good" would then beat every real sentence.
    sentence = "We like to see people have a good time at home, and the day was great for work and play."
    assert simplicity_prior() < rate(simplicity, "good") < rate(simplicity, sentence)


@settings(deadline=None)
@given(sentence_lists, st.data())
def test_repeating_words_does_not_change_simplicity(sentences: list[str], data: st.DataObject) -> None:
    again = data.draw(st.sampled_from(sentences))
    assert rate(simplicity, " ".join([*sentences, again.upper()])) == rate(simplicity, " ".join(sentences))


@settings(deadline=None)
@given(replies, invented_words)
def test_invented_words_never_raise_simplicity(reply: str, word: str) -> None:
    assert rate(simplicity, f"{reply} {word}") <= rate(simplicity, reply)


@pytest.mark.parametrize("addition", [" 1984", " 3.14", " x", " -", " ``` ```", " the", " 🎉", "\n\n---"])
def test_digits_letters_markdown_and_function_words_do_not_change_simplicity(addition: str) -> None:
    assert rate(simplicity, "The dog runs home." + addition) == rate(simplicity, "The dog runs home.")


@pytest.mark.parametrize(
    "reply", ["Добрый день, спасибо большое", "今天天气很好 我们去公园", "np.einsum xs_qj strided_vjpz"]
)
def test_other_scripts_and_code_do_not_pass_as_simple(reply: str) -> None:
    assert rate(simplicity, reply) < simplicity_prior()


def test_simplicity_takes_compounds_apart_and_ignores_possessives() -> None:
    assert rate(simplicity, "well-known") == rate(simplicity, "well known")
    assert rate(simplicity, "the dog\u2019s house") == rate(simplicity, "dog house")


def test_simplicity_scores_two_thousand_replies_a_second() -> None:
    some_replies = [" ".join(SENTENCES) + f" Number {index}." for index in range(2_000)]
    start = time.process_time()
    simplicity([""] * len(some_replies), some_replies)
    assert time.process_time() - start < 1
