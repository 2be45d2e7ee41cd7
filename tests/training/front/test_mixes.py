"""Which mixes are tried: how many, what they add up to, what they cost, what is refused."""

from math import sqrt

import pytest

from training.errors import RecipeError
from training.evaluate.mix import Mix, parse_mix
from training.front.mixes import mix_groups, mixes_of

NAMES = ["a", "b", "c", "d"]


def test_a_pair_has_eleven_mixes_a_triple_twenty_one_and_others_five() -> None:
    groups = mix_groups(NAMES, [("a", "b")], [("b", "c", "d")])
    assert [len(group.mixes) for group in groups] == [11, 21, *[5] * 5]
    assert {group.objectives for group in groups[2:]} == {("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")}
    assert all(sum(mix.shares.values()) == pytest.approx(1) for group in groups for mix in group.mixes)
    assert [len(group.mixes) for group in mix_groups(NAMES, [], [], full=True)] == [11] * 6
    assert mix_groups(NAMES, [], [], others=False) == []
    fewer = mix_groups(NAMES, [("a", "b")], [], points=6)
    assert [len(group.mixes) for group in fewer] == [6] + [5] * 5
    assert [mix.shares["a"] for mix in fewer[0].mixes] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_the_ends_are_each_objective_alone_and_all_mixes_differ() -> None:
    for steps, objectives in ((10, NAMES[:2]), (5, NAMES[:3])):
        mixes = mixes_of(objectives, steps).mixes
        assert {mix.folder_name for mix in mixes} >= {f"{name}-1.00" for name in objectives}
        assert len({mix.folder_name for mix in mixes}) == len(mixes)


def test_a_tilt_has_the_mixs_direction_and_a_length_of_its_own() -> None:
    weights = Mix({"a": 0.6, "b": 0.4, "c": 0.0}).tilt(1.5)
    assert weights.keys() == {"a", "b"} and weights["a"] / weights["b"] == pytest.approx(1.5)
    assert sqrt(sum(weight**2 for weight in weights.values())) == pytest.approx(1.5)


def test_mixes_that_differ_in_nothing_have_one_folder() -> None:
    """What one group has sampled is not sampled again for another."""
    assert Mix({"a": 1.0, "b": 0.0}).folder_name == Mix({"c": 0.0, "a": 1.0}).folder_name
    assert Mix({"a": 0.5, "b": 0.5}).folder_name == Mix({"b": 0.5, "a": 0.5}).folder_name


@pytest.mark.parametrize("pair", [("a",), ("a", "a"), ("a", "x"), ("a", "b", "c"), ("",)])
def test_a_pair_that_is_none_is_refused_by_name(pair: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError, match=r"pair: got '.*', allowed is 2 different ones of a, b, c, d"):
        mix_groups(NAMES, [pair], [])


def test_shares_of_a_mix_are_made_to_add_up() -> None:
    mix = parse_mix("mix", " a=1, b=3", ("a", "b", "c"))
    assert mix.shares == {"a": 0.25, "b": 0.75}
    (group,) = mix_groups(("a", "b", "c"), (), (), [mix], others=False)
    assert group.is_one_mix and group.objectives == ("a", "b") and str(group) == "a 0.25, b 0.75"


@pytest.mark.parametrize(
    "text", ["", "a=1", "a=1,a=2", "a=1,d=1", "a=1,b=0", "a=1,b=-1", "a=1,b", "a=1,b=inf", "a=1,b=nan"]
)
def test_what_is_no_mix_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"mix: got .*, allowed is two or more of a, b, c"):
        parse_mix("mix", text, ("a", "b", "c"))
