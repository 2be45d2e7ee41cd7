"""Three things that the embedded base seldom does, as rewards: each counts up to a cap; more pays nothing."""

import re
from collections.abc import Sequence

_SENSES = re.compile(
    r"\b(?:bright|dark|glow\w*|shin\w+|shimmer\w*|sparkl\w*|gleam\w*|golden|silver|red|blue|green|purple|pale|shadow\w*"
    r"|whisper\w*|humm?(?:s|ed|ing)?|rustl\w*|echo\w*|roar\w*|murmur\w*|quiet\w*|loud\w*|warm\w*|cold|cool|icy|soft(?:ly|er|ness)?|smooth\w*"
    r"|rough|damp|velvet\w*|crisp|sweet\w*|bitter|salty|sour|spic\w+|fragran\w+|scent\w*|smell\w*|aroma\w*|tast\w+)\b"
)


class Curiosity:
    """How many sentences of a reply ask something, at most `most`."""

    def __init__(self, most: int = 3) -> None:
        self.most = most

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One score a reply, from 0 to `most`."""
        return [float(min(len(re.findall(r"\w\W{0,2}\?", reply)), self.most)) for reply in replies]


class Enthusiasm:
    """How many sentences of a reply are exclaimed, at most `most`."""

    def __init__(self, most: int = 3) -> None:
        self.most = most

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One score a reply, from 0 to `most`."""
        return [float(min(len(re.findall(r"\w\W{0,2}!", reply)), self.most)) for reply in replies]


class Vividness:
    """How many different words for what is seen, heard, felt, smelt or tasted a reply has, at most `most`."""

    def __init__(self, most: int = 4) -> None:
        self.most = most

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One score a reply, from 0 to `most`."""
        return [float(min(len(set(_SENSES.findall(reply.lower()))), self.most)) for reply in replies]
