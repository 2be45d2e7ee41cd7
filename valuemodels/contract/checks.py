"""What is a number, and how allowed names are listed. Standard library only."""

import sys


def is_finite_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def one_of(names: tuple[str, ...]) -> str:
    return "one of " + ", ".join(names) if names else "nothing: no objectives are loaded"
