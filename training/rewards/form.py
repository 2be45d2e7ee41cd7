"""Rewards of a reply's form: `conciseness`, that it comes to its end in few words, and `curiosity`, that it asks back.

Runs in the training process. Standard library only.
"""

import re
from collections.abc import Sequence
from math import log

from training.rewards.words import content_words, reads_words, sentences_of, words_of

_ENDS = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]*_]*\s*$")


class Conciseness:
    """How few words a reply takes to come to an end: 1 for FEWEST words, falling with their logarithm to 0 for MOST.

    Measures length alone: not whether the reply says what it has to, which `helpfulness` is for.

    A reply that does not end with a sentence's end has not come to one, however short, and scores 0: breaking off does
    not pay. Nor does saying nothing: with fewer than FEWEST different words a reply scores that much less, so "No." is
    worth an eighth of a sentence, and a word repeated is worth no more than itself.
    """

    FEWEST, MOST = 8, 64
    depends_on = staticmethod(reads_words)

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One score a reply, from 0 to 1."""
        return [self._score(reply) for reply in replies]

    def _score(self, reply: str) -> float:
        words = words_of(reply)
        if not words or not _ENDS.search(reply):
            return 0.0
        length = min(max(len(words), self.FEWEST), self.MOST)
        brevity = 1 - log(length / self.FEWEST) / log(self.MOST / self.FEWEST)
        return brevity * min(1.0, len(set(words)) / self.FEWEST)


class Curiosity:
    """How many different questions a reply asks, at most MOST.

    Measures that something is asked, by its question mark: not whether anybody would like to answer. A question counts
    once however often it is asked, and needs LEAST_WORDS words with a word of content among them: "Right?" and "???"
    count for nothing. Asking the prompt's own question back does not count either.
    """

    MOST, LEAST_WORDS = 3, 3
    depends_on = staticmethod(reads_words)

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One score a reply, from 0 to MOST."""
        return [self._score(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]

    def _score(self, prompt: str, reply: str) -> float:
        asked = self._questions(reply) - self._questions(prompt)
        return float(min(len(asked), self.MOST))

    def _questions(self, text: str) -> set[str]:
        found = (sentence for sentence, end in sentences_of(text) if "?" in end)
        return {
            " ".join(words_of(each))
            for each in found
            if len(words_of(each)) >= self.LEAST_WORDS and content_words(each)
        }
