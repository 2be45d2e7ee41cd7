"""Rewards of the words in a reply, `positivity` and `simplicity`; and how texts are taken apart, for others.

A reward is what a value model learns to predict, and guidance pushes replies to where it is high, sound or not. These
are therefore shaped so that the cheap ways to raise a score (repeating, inventing, saying nothing) do not work.

Runs in the training process, on the CPU and without a network. Must not import torch or vllm; the packages behind a
reward are imported when one is made.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import fsum
from pathlib import Path
from typing import Any

_SENTENCE_END = re.compile("([.!?\u2026]+(?=[\\s\"'\u201d\u2019)\\]*_]|$)|\n+)")
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_LONGEST_LOOP = 8  # words of a phrase whose immediate repetition is noticed


class Positivity:
    """Mean VADER compound score of a reply's distinct sentences, in -1 .. 1; 0 for a reply without words.

    Measures how warm or cold the *words* are: a lexicon of rated English words with rules for negation, intensifiers
    and "but". It does not know whether a reply is friendly, helpful or true; it misses irony and context. A neutral
    sentence scores 0 and pulls the mean towards 0.

    The mean is over sentences because VADER's score of a whole text saturates near 1 after a few warm words. Only
    words count, in lower case: capitals, exclamation marks, emoticons and emoji are the cheapest way to a high score.
    A sentence counts once however often it occurs, and a phrase repeated on the spot ("so happy, so happy") is read
    once. A list of different warm words still scores high.
    """

    def __init__(self) -> None:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self._analyzer = SentimentIntensityAnalyzer()

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        return [self._score(reply) for reply in replies]

    def _score(self, reply: str) -> float:
        sentences = {" ".join(_without_loops(words_of(part))) for part, _ in sentences_of(reply)} - {""}
        if not sentences:
            return 0.0
        # fsum: exact, so that the order of the sentences (a set's) cannot show in the last digit.
        return fsum(self._analyzer.polarity_scores(sentence)["compound"] for sentence in sentences) / len(sentences)


class Simplicity:
    """Mean Zipf frequency of a reply's distinct content words in English, shrunk towards PRIOR when there are few.

    Zipf frequency is log10 of the occurrences in a billion words: 7 "the", 5 "dog", 3 "photosynthesis", 0 unknown.
    Common words are also short, so this is a measure of plain vocabulary. It says nothing about grammar, sentence
    length, or whether the explanation is a good one.

    Function words ("the", "of", "they") are left out: every reply needs them, their share depends mostly on how long
    the reply is, and with frequencies of 6 to 7 they would reward padding more than plain content words.
    Each word counts once, so repeating a common one does not pay; invented words count as 0, and other scripts come
    out rare or unknown; digits, single letters and punctuation do not count. PRIOR_WORDS imaginary words of frequency
    PRIOR keep a reply of one or two words from an extreme: (sum + PRIOR_WORDS * PRIOR) / (count + PRIOR_WORDS).
    A reply without content words scores PRIOR, about what a small base model's average reply scores, so saying nothing
    neither pays nor costs.
    """

    PRIOR = 4.5
    PRIOR_WORDS = 8

    def __init__(self) -> None:
        from wordfreq import zipf_frequency

        @lru_cache(maxsize=1 << 17)
        def zipf(word: str) -> float:
            return zipf_frequency(word, "en", minimum=0.0)

        zipf("word")  # wordfreq reads its list on first use; fail, and wait, here
        self._zipf = zipf

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        return [self._score(reply) for reply in replies]

    def _score(self, reply: str) -> float:
        words = content_words(reply)
        total = fsum(self._zipf(word) for word in words) + self.PRIOR_WORDS * self.PRIOR
        return total / (len(words) + self.PRIOR_WORDS)


def reads_words(parameters: Mapping[str, Any]) -> list[Path]:
    """`depends_on` of rewards elsewhere that take texts apart as this file does."""
    return [Path(__file__)]


def sentences_of(text: str) -> list[tuple[str, str]]:
    """The sentences of a text, each with the marks or line breaks that end it; "" for one that breaks off."""
    pieces = _SENTENCE_END.split(text)
    pairs = zip(pieces[::2], [*pieces[1::2], ""], strict=True)
    return [(sentence, end) for sentence, end in pairs if sentence.strip()]


def words_of(text: str) -> list[str]:
    """Lower-case words in order: letters of any script, joined by inner apostrophes and hyphens."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def _without_loops(words: Iterable[str]) -> list[str]:
    """The words, where a phrase of up to _LONGEST_LOOP words that follows itself is kept once."""
    kept: list[str] = []
    for word in words:
        kept.append(word)
        for size in range(1, min(_LONGEST_LOOP, len(kept) // 2) + 1):
            if kept[-size:] == kept[-2 * size : -size]:
                del kept[-size:]
                break
    return kept


def content_words(text: str) -> set[str]:
    """Distinct words that carry content: compounds taken apart, clitics ('s, n't, 'll) and function words left out."""
    stems = {part.partition("'")[0] for word in words_of(text) for part in word.split("-") if not part.endswith("n't")}
    return {stem for stem in stems if len(stem) > 1 and stem not in _FUNCTION_WORDS}


_FUNCTION_WORD_LIST = """
    a an the this that these those i me my mine myself you your yours yourself he him his himself she her hers herself
    it its itself we us our ours ourselves they them their theirs themselves who whom whose which what when where why
    how and or but nor so if then than because while although though as of at by for with about against between into
    through during before after to from up down in out on off over under until since upon within without am is are was
    were be been being have has had having do does did doing will would shall should can could may might must not no
    yes all any both each few more most other some such only own same too very just also there here now again once
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_WORD_LIST.split())
