"""The reward `helpfulness`: whether a reply is about what was asked, by word vectors that a package brings.

Runs in the training process, on the CPU and without a network. Must not import torch or vllm; the package behind the
reward is imported when one is made.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.rewards.words import content_words, reads_words, words_of

_STEM = 5  # letters that a word has in common with its other forms, as a rule


class Helpfulness:
    """Cosine between the meaning of the prompt and of what a reply adds to it, shrunk towards 0 for few words.

    Measures whether a reply stays with what was asked: with wordllama's vectors (a 256-dimensional static embedding,
    taken from a language model's and trained on pairs of sentences; MIT licence, 16 MB in its wheel). Of the embedded
    base's replies it tells the one to a prompt from one to another prompt in 82 of 100 pairs. It does not know whether
    a reply is right, complete or polite: a wrong answer about the right thing scores high.

    Saying the prompt again is the cheapest way to a high cosine, so words that share their first letters with one of
    the prompt's are left out of the reply. What remains counts once a word, function words not at all, invented words
    have no meaning that is near anything, and PRIOR_WORDS imaginary words without meaning keep one well-chosen word
    from a high score. What still pays is a list of words about the subject, without a sentence among them.
    """

    PRIOR_WORDS = 8
    depends_on = staticmethod(reads_words)

    def __init__(self) -> None:
        import wordllama

        # The wheel holds the tokenizer under another name than its own loader looks for first.
        self._vectors = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One score a reply, from -1 to 1; 0 for one that adds no word to its prompt."""
        if not replies:
            return []
        added = [_added(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
        asked = self._embedded([" ".join(_ordered(prompt)) or prompt for prompt in prompts])
        cosines = (asked * self._embedded([" ".join(words) for words in added])).sum(1)
        shares = np.array([len(words) / (len(words) + self.PRIOR_WORDS) for words in added])
        return [float(score) for score in cosines * shares]

    def _embedded(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[texts, dimensions] of length 1, or 0 for a text without a word that is known."""
        vectors = np.asarray(self._vectors.embed([text or " " for text in texts]), dtype=np.float64)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: NDArray[np.float64] = vectors / np.where(lengths > 0, lengths, 1.0)
        return unit


def _added(prompt: str, reply: str) -> list[str]:
    """The content words of a reply that its prompt does not have, in order, each once."""
    known = {word[:_STEM] for word in words_of(prompt)}
    return [word for word in _ordered(reply) if word[:_STEM] not in known]


def _ordered(text: str) -> list[str]:
    content = content_words(text)
    return [word for word in dict.fromkeys(words_of(text)) if word in content]
