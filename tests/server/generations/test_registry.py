"""The registry: an id is taken once, and what has ended is kept for a while, never too much of it."""

import pytest

from server.errors import LiveIdError
from server.generations.generation import Generation
from server.generations.registry import Registry
from tests.server.kit import OWNER, checked, trace
from valuemodels.contract.guidance import ChoiceName


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def made(name: str, tokens: int = 1) -> Generation:
    generation = Generation(checked(generation_id=name), 1, OWNER)
    generation.take({ChoiceName(0, 0): trace(0, tokens)})
    return generation


def ended(registry: Registry, name: str, tokens: int = 1) -> Generation:
    generation = made(name, tokens)
    registry.open(generation)
    registry.close(generation)
    return generation


def test_an_id_is_taken_once() -> None:
    registry, first = Registry(), made("g")
    registry.open(first)
    with pytest.raises(LiveIdError, match="still running"):
        registry.open(made("g"))
    registry.close(first)
    registry.open(made("g"))


def test_closing_twice_does_not_free_the_next_of_the_same_id() -> None:
    registry, first, second = Registry(), made("g"), made("g")
    registry.open(first)
    registry.close(first)
    registry.open(second)
    registry.close(first)
    assert registry.running("g") is registry.find("g") is second


def test_what_has_ended_is_found_for_its_time() -> None:
    clock = Clock()
    registry = Registry(kept_s=300, clock=clock)
    a = ended(registry, "a")
    clock.now = 299
    b = ended(registry, "b")
    assert (registry.find("a"), registry.find("b"), registry.find("c")) == (a, b, None)
    assert registry.running("a") is None and len(registry) == 0
    clock.now = 301
    assert (registry.find("a"), registry.find("b")) == (None, b)


def test_the_oldest_go_where_there_are_too_many_or_they_hold_too_much() -> None:
    registry = Registry(max_ended=3, max_ended_weight=10)
    for name in "abcd":
        ended(registry, name)
    assert [name for name in "abcd" if registry.find(name)] == ["b", "c", "d"]
    ended(registry, "big", 9)
    assert [name for name in ("b", "c", "d", "big") if registry.find(name)] == ["d", "big"]
    ended(registry, "giant", 11)
    assert [name for name in ("d", "big", "giant") if registry.find(name)] == []


def test_an_id_that_ends_again_counts_once() -> None:
    registry = Registry(max_ended_weight=10)
    for _ in range(5):
        newest = ended(registry, "a", 6)
    assert registry.find("a") is newest
    other = ended(registry, "b", 4)
    assert (registry.find("a"), registry.find("b")) == (newest, other)
