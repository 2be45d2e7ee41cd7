"""Which mixtures of objectives are tried. Standard library only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

from training.errors import RecipeError

PAIR_POINTS, OTHER_PAIR_POINTS, TRIPLE_STEPS = 11, 5, 5


@dataclass(frozen=True, slots=True)
class Mix:
    """How much each of some objectives matters: shares that add up to 1."""

    shares: Mapping[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{name} {share:.2f}" for name, share in self.shares.items() if share)

    @property
    def folder_name(self) -> str:
        """A name for a folder of its replies; mixes that only differ in objectives of no share have the same."""
        return "_".join(f"{name}-{share:.2f}" for name, share in sorted(self.shares.items()) if share)

    def tilt(self, strength: float) -> dict[str, float]:
        """Weights that tilt towards it, of length `strength` whatever the mix, so that all of them cost about alike.

        Costs of tilts that have nothing to do with each other add up, and grow with the weights' squares.
        """
        length = sqrt(sum(share**2 for share in self.shares.values()))
        return {name: strength * share / length for name, share in self.shares.items() if share}


@dataclass(frozen=True, slots=True)
class MixGroup:
    """Objectives that are traded off against each other, and at which mixes."""

    objectives: tuple[str, ...]
    mixes: tuple[Mix, ...]

    def __str__(self) -> str:
        return " and ".join([", ".join(self.objectives[:-1]), self.objectives[-1]])


def mixes_of(objectives: Sequence[str], steps: int) -> MixGroup:
    """All mixes whose shares are multiples of 1 / `steps`: steps + 1 of two objectives."""
    made = (
        Mix(dict(zip(objectives, (part / steps for part in parts), strict=True)))
        for parts in _parts(steps, len(objectives))
    )
    return MixGroup(tuple(objectives), tuple(made))


def mix_groups(
    names: Sequence[str],
    pairs: Sequence[Sequence[str]],
    triples: Sequence[Sequence[str]],
    *,
    others: bool = True,
    full: bool = False,
) -> list[MixGroup]:
    """The pairs at 11 mixes and the triples at 21; all other pairs at 5, or with `full` at 11 too.

    Args:
        names: of all objectives; pairs, triples: of those to be looked at closely.
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
    steps = (PAIR_POINTS if full else OTHER_PAIR_POINTS) - 1
    return [
        *(mixes_of(pair, PAIR_POINTS - 1) for pair in pairs),
        *(mixes_of(triple, TRIPLE_STEPS) for triple in triples),
        *(mixes_of(pair, steps) for pair in rest),
    ]


def _parts(whole: int, count: int) -> Iterator[tuple[int, ...]]:
    """All ways to make up a whole number of `count` others, in order; the first shrinks last."""
    if count == 1:
        yield (whole,)
        return
    for first in range(whole, -1, -1):
        yield from ((first, *rest) for rest in _parts(whole - first, count - 1))
