"""What of a schedule holds at a token, on its way through msgpack, and what of it is refused."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.guidance import ChoiceName, Guidance, ScheduledChange
from valuemodels.contract.policy import Bounds, GuidancePolicy
from valuemodels.contract.schedule import next_entry, numbered_states, scheduled, states

POLICY = GuidancePolicy(objectives=("warmth", "brevity"), default_weights={"brevity": 0.5})
WEIGHTS = st.dictionaries(st.sampled_from(POLICY.objectives), st.floats(-2, 2) | st.none())
SAID = st.fixed_dictionaries({}, optional={"objective_weights": WEIGHTS, "beta": st.floats(0, 3) | st.none()})
SCHEDULES = st.dictionaries(st.integers(0, 20), SAID, max_size=6).map(
    lambda said: tuple(ScheduledChange(token, said[token]) for token in sorted(said))
)


FOR_CHOICES = st.lists(st.tuples(st.integers(0, 9), SAID, st.none() | st.integers(0, 3)), max_size=6).map(
    lambda entries: tuple(ScheduledChange(*entry) for entry in sorted(entries, key=lambda entry: entry[0]))
)
FIRST = ChoiceName(0, 0)


def asked(*entries: tuple[int, dict[str, Any]], **fields: Any) -> Guidance:
    return Guidance("g", schedule=tuple(ScheduledChange(*entry) for entry in entries), **fields)


@given(SCHEDULES, st.integers(0, 25))
def test_what_holds_at_a_token_is_what_was_said_last_of_each_field(
    schedule: tuple[ScheduledChange, ...], token: int
) -> None:
    held = scheduled(Guidance("g", weights={"warmth": 1.0}, beta=2.0, schedule=schedule), token)
    weights: dict[str, float | None] = {"warmth": 1.0}
    beta: float | None = 2.0
    for entry in schedule:
        if entry.from_token <= token:
            weights |= entry.said.get("objective_weights", {})
            beta = entry.said.get("beta", beta)
    assert held.weights == {name: weight for name, weight in weights.items() if weight is not None}
    assert held.beta == beta and held.schedule == ()


@given(SCHEDULES)
def test_states_are_all_that_will_hold(schedule: tuple[ScheduledChange, ...]) -> None:
    guidance = Guidance("g", schedule=schedule)
    expected = [scheduled(guidance, token) for token in (-1, *(entry.from_token for entry in schedule))]
    assert list(states(guidance)) == expected


def test_next_entry_is_the_first_one_after_a_token() -> None:
    guidance = asked((0, {"beta": 1}), (4, {"beta": 2}), (9, {"beta": 3}))
    assert [next_entry(guidance, token, FIRST) for token in (-1, 0, 3, 4, 8, 9)] == [0, 4, 4, 9, 9, None]


@given(FOR_CHOICES, st.integers(0, 3), st.integers(0, 10))
def test_an_entry_for_a_choice_is_for_that_one_alone(
    schedule: tuple[ScheduledChange, ...], index: int, token: int
) -> None:
    """As if the others' entries were not there; of two prompts with two choices each."""
    choice = ChoiceName(*divmod(index, 2))
    whole = Guidance("g", schedule=schedule, n=2)
    own = tuple(ScheduledChange(e.from_token, e.said) for e in schedule if e.choice in (None, index))
    alone = Guidance("g", schedule=own, n=2)
    assert scheduled(whole, token, choice) == scheduled(alone, token, FIRST)
    assert next_entry(whole, token, choice) == next_entry(alone, token, FIRST)
    assert list(states(whole, choice)) == list(states(alone, FIRST))
    assert scheduled(whole, token) == scheduled(Guidance("g", schedule=shared(schedule), n=2), token, FIRST)


def shared(schedule: tuple[ScheduledChange, ...]) -> tuple[ScheduledChange, ...]:
    return tuple(entry for entry in schedule if entry.choice is None)


@given(FOR_CHOICES)
def test_numbered_states_are_all_that_will_hold_for_anybody(schedule: tuple[ScheduledChange, ...]) -> None:
    guidance = Guidance("g", schedule=schedule)
    found = list(numbered_states(guidance))
    for child in range(5):  # nobody has an entry for the last
        expected = list(states(guidance, ChoiceName(0, child)))[1:]
        numbers = [number for number, entry in enumerate(schedule) if entry.choice in (None, child)]
        assert all(each in found for each in zip(numbers, expected, strict=True))
    assert {number for number, _ in found} == set(range(len(schedule)))


@given(FOR_CHOICES)
def test_a_schedule_survives_the_way_into_the_worker(schedule: tuple[ScheduledChange, ...]) -> None:
    """As vLLM sends it: the dataclass itself, through msgpack."""
    guidance = Guidance("g", weights={"warmth": 1.0}, schedule=schedule)
    arrived = msgspec.msgpack.decode(msgspec.msgpack.encode(guidance))
    assert Guidance.from_wire(arrived) == guidance
    assert Guidance.from_wire(guidance.to_wire()) == guidance


def test_a_request_with_a_schedule_is_followed_from_its_first_token() -> None:
    """Else a plain beginning would be told of as if nobody knew what held."""
    plain = POLICY.resolve(asked((5, {"objective_weights": {"warmth": 1}}), weights={"brevity": 0.0}))
    assert plain.is_plain and plain.needs_values
    assert POLICY.resolve(asked((5, {"objective_weights": {"warmth": 1}})), token=5).weights == (1.0, 0.5)


@pytest.mark.parametrize(
    ("entries", "field"),
    [
        ([(3, {"objective_weights": {"warmth": 9}})], "schedule.0.objective_weights.warmth"),
        ([(0, {"beta": 1}), (3, {"beta": -1})], "schedule.1.beta"),
        ([(0, {"beta": 1}), (3, {"kl_budget": 0})], "schedule.1.kl_budget"),
        ([(0, {"beta": 1}), (3, {"beta": "much"})], "schedule.1.beta"),
        ([(7, {"objective_weights": {"humour": 1}})], "schedule.0.objective_weights.humour"),
    ],
)
def test_what_is_not_allowed_is_refused_by_the_entry_and_its_field(entries: Any, field: str) -> None:
    with pytest.raises(GuidanceError) as refused:
        POLICY.check(asked(*entries))
    assert refused.value.field == field


def test_fields_that_are_allowed_alone_and_not_together_are_refused_where_they_meet() -> None:
    policy = GuidancePolicy(objectives=("warmth",), bounds={"warmth": Bounds(-1, 1)})
    policy.check(asked((2, {"objective_weights": {"warmth": 1}})))
    with pytest.raises(GuidanceError) as refused:
        policy.check(asked((2, {"objective_weights": {"warmth": 1}}), (4, {"beta": 3})))
    assert refused.value.field == "schedule.1.beta"
