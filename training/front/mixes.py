"""Which mixtures of objectives are tried. Standard library only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from training.errors import RecipeError
from training.evaluate.mix import Mix

PAIR_POINTS, OTHER_PAIR_POINTS, TRIPLE_STEPS = 11, 5, 5


@dataclass(frozen=True, slots=True)
class MixGroup:
    """Objectives that are traded off against each other, and at which mixes.

    Attributes:
        closely: whether all methods answer there; else those alone that need no replies but the base's and the tilts'.
    """

    objectives: tuple[str, ...]
    mixes: tuple[Mix, ...]
    closely: bool = True

    @property
    def is_one_mix(self) -> bool:
        """Whether nothing is traded off: then a policy can be fitted to it."""
        return len(self.mixes) == 1

    def __str__(self) -> str:
        if self.is_one_mix:
            return str(self.mixes[0])
        return " and ".join([", ".join(self.objectives[:-1]), self.objectives[-1]])


def mixes_of(objectives: Sequence[str], steps: int, *, closely: bool = True) -> MixGroup:
    """All mixes whose shares are multiples of 1 / `steps`: steps + 1 of two objectives."""
    made = (
        Mix(dict(zip(objectives, (part / steps for part in parts), strict=True)))
        for parts in _parts(steps, len(objectives))
    )
    return MixGroup(tuple(objectives), tuple(made), closely)


def mix_groups(
    names: Sequence[str],
    pairs: Sequence[Sequence[str]],
    triples: Sequence[Sequence[str]],
    mixes: Sequence[Mix] = (),
    *,
    points: int = PAIR_POINTS,
    others: bool = True,
    full: bool = False,
) -> list[MixGroup]:
    """The pairs at so many `points`, the triples at 21; the mixes alone; all other pairs at 5, or with `full` as these.

    Args:
        names: of all objectives; pairs, triples: of those to be looked at closely; mixes: to be looked at alone.
        others: False leaves the other pairs out.

    Raises:
        RecipeError: one of them has objectives that there are not, or the same twice, or another number of them.
    """
    for field, groups, size in (("pair", pairs, 2), ("triple", triples, 3)):
        for group in groups:
            if len(group) != size or len(set(group)) != size or not set(group) <= set(names):
                allowed = f"{size} different ones of {', '.join(names)}, with commas between them"
                raise RecipeError(f"{field}: got {','.join(group)!r}, allowed is {allowed}")
    close = {frozenset(pair) for pair in pairs}
    rest = [pair for pair in combinations(names, 2) if others and frozenset(pair) not in close]
    steps = (points if full else OTHER_PAIR_POINTS) - 1
    return [
        *(mixes_of(pair, points - 1) for pair in pairs),
        *(mixes_of(triple, TRIPLE_STEPS) for triple in triples),
        *(MixGroup(tuple(mix.shares), (mix,)) for mix in mixes),
        *(mixes_of(pair, steps, closely=full) for pair in rest),
    ]


def _parts(whole: int, count: int) -> Iterator[tuple[int, ...]]:
    """All ways to make up a whole number of `count` others, in order; the first shrinks last."""
    if count == 1:
        yield (whole,)
        return
    for first in range(whole, -1, -1):
        yield from ((first, *rest) for rest in _parts(whole - first, count - 1))
