"""Sliders and keys of the terminal's chat, without a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mavis_chat.keys import keys_in
from mavis_chat.sliders import Sliders
from mavis_client import Objective


def sliders() -> Sliders:
    return Sliders(
        [Objective(id="warmth", bounds=(-1, 1), default=0.5), Objective(id="brevity", bounds=(0, 2), default=0.0)]
    )


def test_arrows_choose_and_move_within_the_bounds() -> None:
    made = sliders()
    assert made.press("right") == {"warmth": 0.6}
    assert made.press("down") == {} and made.press("left") == {}, "brevity is at its lowest"
    assert [made.press("right") for _ in range(2)] == [{"brevity": 0.1}, {"brevity": 0.2}]
    assert made.press("up") == {} and made.press("0") == {"warmth": 0.5}
    assert made.press("x") == {}
    assert made.weights == {"warmth": 0.5, "brevity": 0.2}


@given(st.lists(st.sampled_from(["up", "down", "left", "right", "0", "q"]), max_size=200))
def test_no_key_takes_a_weight_beyond_its_bounds(keys: list[str]) -> None:
    made = sliders()
    told: dict[str, float] = dict(made.weights)
    for key in keys:
        told |= made.press(key)
        assert told == made.weights, "what is told of is all that changes"
        assert -1 <= made.weights["warmth"] <= 1 and 0 <= made.weights["brevity"] <= 2
        assert len({len(line) for line in made.lines()}) == 1


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        ("\x1b[C\x1b[C", ["right", "right"]),
        ("\x1bOA0", ["up", "0"]),
        ("\x1b", ["escape"]),
        ("a\x1b[Db", ["a", "left", "b"]),
        ("", []),
    ],
)
def test_keys_of_a_terminals_bytes(data: str, keys: list[str]) -> None:
    assert keys_in(data) == keys
