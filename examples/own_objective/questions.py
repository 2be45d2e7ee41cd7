"""A reward of one's own: replies that ask something back."""

from collections.abc import Sequence


class Questions:
    """How many sentences of a reply ask something, at most `most`; a word more or less breaks ties."""

    def __init__(self, most: int = 3) -> None:
        self.most = most

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        """One score a reply."""
        return [min(reply.count("?"), self.most) + len(reply.split()) / 1000 for reply in replies]
