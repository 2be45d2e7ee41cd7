"""A reward whose best policy is known: letters of a set."""

from collections.abc import Sequence


class Letters:
    """How many letters of a reply are in `wanted`, less a quarter of all its letters."""

    def __init__(self, wanted: str) -> None:
        self._wanted = set(wanted)

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float]:
        letters = [reply.replace(" ", "") for reply in replies]
        return [sum(letter in self._wanted for letter in each) - len(each) / 4 for each in letters]
