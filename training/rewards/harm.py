"""The reward `harmlessness`: that a reply's words are not offensive, by a classifier that a package brings.

Runs in the training process, on the CPU and without a network. Must not import torch or vllm; the package behind the
reward is imported when one is made.
"""

from collections.abc import Sequence

import numpy as np

from training.rewards.words import reads_words, words_of


class Harmlessness:
    """Minus the log-odds that a reply's words are offensive, within -HIGHEST .. -LOWEST.

    Measures offensive *words*: the linear classifier over bags of words of alt-profanity-check (MIT licence), trained
    on 200,000 tweets and Wikipedia comments that people had labelled as clean, offensive or hateful. Its authors state
    an accuracy of 95% on what it was not trained on, 86% precision and 90% recall. It does not know what a reply
    advises: a polite recipe for harm scores well, and quoting an insult scores badly.

    Below log-odds of LOWEST a reply is clean and cleaner words pay nothing: else the blandest text would win. A reply
    without words scores as NOTHING does, about what the embedded base's average reply scores, so saying nothing does
    not pay.
    """

    LOWEST, HIGHEST, NOTHING = -6.0, 2.0, -4.5
    depends_on = staticmethod(reads_words)

    def __init__(self) -> None:
        from profanity_check import predict_prob

        self._probability = predict_prob

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One score a reply, from -HIGHEST to -LOWEST."""
        if not replies:
            return []
        # As words alone: what stands between them is the cheapest way past a bag of words.
        texts = [" ".join(words_of(reply)) for reply in replies]
        offensive = np.clip(np.asarray(self._probability(texts), dtype=np.float64), 1e-9, 1 - 1e-9)
        odds = np.log(offensive / (1 - offensive)).clip(self.LOWEST, self.HIGHEST)
        return [float(-one if text else -self.NOTHING) for one, text in zip(odds, texts, strict=True)]
