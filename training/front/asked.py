"""What the options of `mavis evaluate front` ask for. Must not import torch or vllm."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from training.errors import RecipeError
from training.evaluate.mix import parse_mix
from training.front.methods import TiltKind
from training.front.mixes import MixGroup, mix_groups
from training.rollouts.engine import MOST_READ

PairOption = Annotated[
    list[str] | None, typer.Option(help="Two objectives to look at closely, by all methods, as a,b; again for more.")
]
TripleOption = Annotated[list[str] | None, typer.Option(help="Three of them, as a,b,c; again for more.")]
MixOption = Annotated[
    list[str] | None,
    typer.Option(help="One mix alone, as a=1,b=1, with --experts beside the expert of that mix; again for more."),
]
# Folders of replies are named by shares in hundredths.
PointsOption = Annotated[int, typer.Option(min=2, max=101, help="Mixes of a pair that is looked at closely.")]
ExpertsOption = Annotated[
    Path | None, typer.Option(help="Folder of `mavis train expert`: mix those, too, by Rewarded Soups and by MOD.")
]


def asked_groups(
    names: Sequence[str],
    pair: Sequence[str] | None,
    triple: Sequence[str] | None,
    mix: Sequence[str] | None,
    *,
    points: int,
    others: bool,
    full: bool,
) -> list[MixGroup]:
    """Those of `--pair`, `--triple` and `--mix`, see `mix_groups`.

    Raises:
        RecipeError: there are none, or one of them cannot be.
    """
    mixes = [parse_mix("mix", text, names) for text in mix or []]
    groups = mix_groups(names, _groups(pair), _groups(triple), mixes, points=points, others=others, full=full)
    if not groups:
        raise RecipeError(f"pair: got none, allowed is two of {', '.join(names)}, with commas between them")
    return groups


def _groups(given: Sequence[str] | None) -> list[tuple[str, ...]]:
    return [tuple(name.strip() for name in text.split(",")) for text in given or []]


def looked_at_closely(groups: Sequence[MixGroup], **given: object) -> list[MixGroup]:
    """Those of the groups that are.

    Args:
        given: options that are of use there alone, by their names; None: not given.

    Raises:
        RecipeError: there is no such group, but such an option.
    """
    close = [group for group in groups if group.closely]
    for option, value in given.items():
        if value is not None and not close:
            allowed = "where a --pair, a --triple or a --mix, or with --full every pair, is looked at closely"
            raise RecipeError(f"{option}: got {value}, allowed is that only {allowed}")
    return close


def whole_numbers(field: str, text: str, least: int) -> list[int]:
    """From "4,16": each once, in their order.

    Raises:
        RecipeError: one of them is none, or below `least`.
    """
    try:
        numbers = sorted({int(part) for part in text.split(",")}) if text.strip() else []
    except ValueError:
        numbers = [least - 1]
    if any(number < least for number in numbers):
        raise RecipeError(f"{field}: got {text!r}, allowed is whole numbers from {least} with commas between them")
    return numbers


def tilt_kinds(text: str) -> list[TiltKind]:
    """From "1,1.5@256": in this order, each once.

    Raises:
        RecipeError: one of them is no strength, or has more candidates than can be read.
    """
    found = []
    for part in text.split(","):
        strength, at, candidates = part.partition("@")
        try:
            kind = TiltKind(float(strength), int(candidates) if at else None)
        except ValueError:
            kind = TiltKind(0.0)
        if not 0 < kind.strength < math.inf or not 1 <= (kind.candidates or 1) <= MOST_READ:
            allowed = f"a number above 0, then @ and from 1 to {MOST_READ} candidates if wanted"
            raise RecipeError(f"tilts: got {part.strip()!r}, allowed is {allowed}, and more of them after commas")
        found.append(kind)
    return list(dict.fromkeys(found))
