"""What is known of a generation and its choices, and how far they have come."""

from collections.abc import Callable

import pytest

from server.generations.choice import Choice, TokenTrace
from server.generations.generation import SLICE_CANDIDATE_TOKENS, SLICE_TOKENS, Generation
from server.generations.phase import Phase
from tests.server.kit import generation, trace
from valuemodels.contract.guidance import ChoiceName
from valuemodels.contract.trace_wire import TokenRange


def starts(generation: Generation) -> dict[ChoiceName, int]:
    return {name: asked.start for name, asked in generation.next_unread().items()}


def test_a_trace_that_overlaps_is_taken_once_and_one_with_a_gap_not_at_all() -> None:
    known = TokenTrace()
    known.extend(trace(0, 3))
    known.extend(trace(1, 5, candidates=True))
    known.extend(trace(7, 9))
    known.extend(trace(0, 2))
    assert known.kl == [i / 8 for i in range(5)]
    assert len(known.advantages) == len(known.levels) == 5


def test_choices_are_named_by_prompt_and_child() -> None:
    two_by_three = generation(n=3, prompts=2)
    two_by_three.count(ChoiceName(1, 2), [0] * 4)
    two_by_three.count(ChoiceName(0, 1), [0] * 1)
    assert starts(two_by_three) == {ChoiceName(1, 2): 0, ChoiceName(0, 1): 0}
    two_by_three.take({ChoiceName(1, 2): trace(0, 2)})
    assert starts(two_by_three) == {ChoiceName(1, 2): 2, ChoiceName(0, 1): 0}
    assert len(two_by_three.choice(5).trace) == 2
    assert [two_by_three.choice_name(index) for index in (0, 2, 3, 5)] == [(0, 0), (0, 2), (1, 0), (1, 2)]


def test_a_generation_is_as_far_as_its_last_choice() -> None:
    two = generation(n=2)
    steps: list[tuple[Callable[[], None], Phase]] = [
        (lambda: two.count(ChoiceName(0, 0), [0] * 3, is_last=True), Phase.RUNNING),
        (lambda: two.count(ChoiceName(0, 1), [0] * 3, is_last=True), Phase.SAMPLED),
        (lambda: two.choice(1).advance(Phase.TOLD), Phase.SAMPLED),
        (lambda: two.choice(0).advance(Phase.TOLD), Phase.TOLD),
        (two.end, Phase.OVER),
    ]
    for step, phase in steps:
        step()
        assert two.phase is phase


def test_choices_that_have_not_begun_cost_nothing() -> None:
    """A request may ask for any number of choices, and is registered before vLLM refuses it."""
    many = generation(n=10**9)
    many.choice(0).advance(Phase.TOLD)
    assert many.phase is Phase.RUNNING
    assert many.next_unread() == {} and many.weight == 0


def test_a_choice_never_goes_back() -> None:
    choice = Choice()
    for phase in (Phase.TOLD, Phase.SAMPLED, Phase.RUNNING):
        choice.advance(phase)
        assert choice.phase is Phase.TOLD


def test_more_prompts_than_expected_are_waited_for() -> None:
    one = generation()
    one.choice(0).advance(Phase.TOLD)
    one.count(ChoiceName(1, 0), [0] * 1)
    assert (one.size, one.phase) == (2, Phase.RUNNING)


def test_nothing_is_read_of_a_plain_generation_until_it_is_changed() -> None:
    plain = generation({"objective_weights": {"positivity": 0}})
    plain.count(ChoiceName(0, 0), [0] * 2)
    assert plain.next_unread() == {} and not plain.is_watched and not plain.is_guided
    plain.watch()
    assert plain.next_unread() == {ChoiceName(0, 0): TokenRange(0, [0, 0])}


@pytest.mark.parametrize(("detail", "limit"), [(True, SLICE_TOKENS), ("candidates", SLICE_CANDIDATE_TOKENS)])
def test_one_exchange_carries_a_slice_of_a_long_trace(detail: bool | str, limit: int) -> None:
    long = generation({"return_values": detail}, n=2)
    for child in range(2):
        long.count(ChoiceName(0, child), [0] * (limit - 1))
    assert [len(asked.token_ids) for asked in long.next_unread().values()] == [limit - 1, 1]
