"""The registry of running generations, and what is known of their choices."""

import pytest

from server.errors import FieldError, LiveIdError
from server.generations.choice import TokenTrace
from server.generations.generation import checked_id
from server.generations.registry import Registry
from tests.server.kit import generation, trace


def test_an_id_is_live_once() -> None:
    live = Registry()
    first = generation()
    live.open(first)
    with pytest.raises(LiveIdError, match="still running"):
        live.open(generation())
    live.close(first)
    live.open(generation())


def test_closing_twice_does_not_free_the_next_of_the_same_id() -> None:
    live = Registry()
    first, second = generation(), generation()
    live.open(first)
    live.close(first)
    live.open(second)
    live.close(first)
    assert live.get(second.id) is second


def test_a_trace_that_overlaps_is_taken_once_and_one_with_a_gap_not_at_all() -> None:
    known = TokenTrace()
    known.extend(trace(0, 3))
    known.extend(trace(1, 5, candidates=True))
    known.extend(trace(7, 9))
    known.extend(trace(0, 2))
    assert known.token_ids == [0, 1, 2, 3, 4]
    assert known.kl == [i / 8 for i in range(5)]
    assert len(known.values) == len(known.levels) == 5


def test_choices_are_named_by_prompt_and_child() -> None:
    two_by_three = generation(n=3, prompts=2)
    two_by_three.count(1, 2, 4)
    two_by_three.count(0, 1, 1)
    assert two_by_three.unread() == {"1:2": 0, "0:1": 0}
    two_by_three.take({"1:2": trace(0, 2)})
    assert two_by_three.unread() == {"1:2": 2, "0:1": 0}
    assert len(two_by_three.choice(5).trace) == 2


def test_a_generation_is_finished_with_its_last_choice() -> None:
    two = generation(n=2)
    for _ in range(2):
        two.finish(two.choice(1))
        assert not two.is_finished
    two.finish(two.choice(0))
    assert two.is_finished


@pytest.mark.parametrize("value", ["", "x" * 129, "a\nb", "tä", "\x7f"])
def test_ids_that_would_not_survive_a_log_are_refused(value: str) -> None:
    with pytest.raises(FieldError, match="X-Request-Id"):
        checked_id([("request_id", None), ("X-Request-Id", value)])


def test_ids_within_bounds_are_taken() -> None:
    checked_id([("X-Request-Id", "x" * 128), ("request_id", "a b/c:d~"), ("X-Request-Id", None)])
