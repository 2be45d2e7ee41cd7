"""Ended generations: kept for a while, and never too much of them."""

from server.generations.registry import EndedGenerations


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_they_are_kept_for_their_time() -> None:
    clock = Clock()
    ended: EndedGenerations[str] = EndedGenerations(kept_s=300, clock=clock)
    ended.keep("a", "A", 1)
    clock.now = 299
    ended.keep("b", "B", 1)
    assert (ended.get("a"), ended.get("b"), ended.get("c")) == ("A", "B", None)
    clock.now = 301
    assert (ended.get("a"), ended.get("b")) == (None, "B")
    assert len(ended) == 1


def test_the_oldest_go_where_there_are_too_many_or_they_hold_too_much() -> None:
    ended: EndedGenerations[str] = EndedGenerations(max_generations=3, max_weight=10)
    for name in "abcd":
        ended.keep(name, name, 1)
    assert [name for name in "abcd" if ended.get(name)] == ["b", "c", "d"]
    ended.keep("big", "big", 9)
    assert [name for name in ("b", "c", "d", "big") if ended.get(name)] == ["d", "big"]
    ended.keep("giant", "giant", 11)
    assert len(ended) == 0


def test_an_id_that_is_kept_again_counts_once() -> None:
    ended: EndedGenerations[str] = EndedGenerations(max_weight=10)
    for _ in range(5):
        ended.keep("a", "new", 6)
    assert ended.get("a") == "new"
    ended.forget("a")
    ended.forget("a")
    ended.keep("b", "B", 10)
    assert ended.get("b") == "B"
