"""The request field `schedule`: what is read, and what is refused by which name."""

import json
import re
from typing import Any

import pytest

from server.errors import FieldError
from server.requests.schedule import MAX_ENTRIES
from tests.server.kit import catalogue
from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.guidance import ChoiceName, ScheduledChange


def test_a_schedule_travels_with_the_guidance() -> None:
    schedule = [{"from_token": 0, "objective_weights": {"positivity": 1}}, {"from_token": 8, "beta": None}]
    checked = catalogue().check({"schedule": schedule, "beta": 0.5}, "x")
    assert checked.guidance.schedule == (
        ScheduledChange(0, {"objective_weights": {"positivity": 1}}),
        ScheduledChange(8, {"beta": None}),
    )
    assert checked.resolved.weights == (1.0, 0.0), "the entry at token 0 holds at the start"
    assert checked.must_travel and checked.tilts


def test_a_schedule_that_begins_plain_travels_too() -> None:
    checked = catalogue().check({"schedule": [{"from_token": 5, "objective_weights": {"positivity": 1}}]}, "x")
    assert checked.resolved.is_plain and checked.must_travel and checked.tilts


def test_an_empty_schedule_is_none() -> None:
    assert not catalogue().check({"schedule": []}, "x").must_travel


def test_what_steering_tells_is_a_schedule() -> None:
    """The list that an answer has under `mavis.steering` can be sent back as it is."""
    steering = [
        {"from_token": 0, "objective_weights": {"positivity": 1.0, "simplicity": 0.0}, "beta": 1.0, "kl_budget": None},
        {"from_token": 9, "objective_weights": {"positivity": -1.0, "simplicity": 0.0}, "beta": 1.0, "kl_budget": 0.1},
    ]
    checked = catalogue().check({"schedule": json.loads(json.dumps(steering))}, "x")
    assert checked.resolved.weights == (1.0, 0.0)


def test_null_weights_are_the_operators_defaults() -> None:
    made = catalogue(default_weights={"positivity": 0.5})
    schedule = [{"from_token": 3, "objective_weights": None}]
    checked = made.check({"objective_weights": {"positivity": 2}, "schedule": schedule}, "x")
    assert made.policy.resolve(checked.guidance, 3).weights == (0.5, 0.0)


def test_a_profile_may_have_a_schedule_which_the_requests_own_replaces() -> None:
    made = catalogue(profiles={"turn": {"schedule": [{"from_token": 9, "beta": 0}]}})
    assert made.check({"profile": "turn"}, "x").guidance.schedule == (ScheduledChange(9, {"beta": 0}),)
    assert made.check({"profile": "turn", "schedule": []}, "x").guidance.schedule == ()


def test_every_choice_may_have_its_own_weights() -> None:
    schedule = [{"from_token": 0, "objective_weights": {"positivity": w}, "choice": n} for n, w in enumerate((1, -1))]
    checked = catalogue().check({"schedule": [*schedule, {"from_token": 4, "beta": 2}]}, "x").of_choices(1, 2)
    policy, names = catalogue().policy, [ChoiceName(0, 0), ChoiceName(1, 0)]
    assert [policy.resolve(checked.guidance, 3, name).weights for name in names] == [(1.0, 0.0), (-1.0, 0.0)]
    assert [policy.resolve(checked.guidance, 4, name).beta for name in names] == [2.0, 2.0]


def test_an_entry_for_a_choice_that_will_not_be_is_refused() -> None:
    checked = catalogue().check({"schedule": [{**ENTRY, "choice": 4}]}, "x")
    assert checked.of_choices(5, 1).guidance.n == 5
    with pytest.raises(FieldError) as refused:
        checked.of_choices(2, 2)
    assert refused.value.param == "schedule.0.choice" and "from 0 to 3" in refused.value.allowed


def test_a_profile_is_for_all_choices() -> None:
    with pytest.raises(GuidanceError, match=r"profiles\.turn\.schedule\.0\.choice.*leaving the field out"):
        catalogue(profiles={"turn": {"schedule": [{**ENTRY, "choice": 0}]}})


ENTRY = {"from_token": 1, "beta": 1}


@pytest.mark.parametrize(
    ("schedule", "param", "allowed"),
    [
        ({"from_token": 1}, "schedule", "a list of objects"),
        (["later"], "schedule.0", "an object with from_token"),
        ([ENTRY, {"from_token": 1, "beta": 2}], "schedule.1.from_token", "above 1, which an entry before it has"),
        ([ENTRY, {"from_token": 0, "beta": 2, "choice": 1}], "schedule.1.from_token", "at least 1"),
        ([{**ENTRY, "choice": 1}] * 2, "schedule.1.from_token", "for the same choice"),
        ([{**ENTRY, "choice": 1}, ENTRY], "schedule.1.from_token", "for the same choice"),
        ([ENTRY, {**ENTRY, "choice": 1}], "schedule.1.from_token", "for the same choice"),
        ([{**ENTRY, "choice": -1}], "schedule.0.choice", "an integer from 0"),
        ([{**ENTRY, "choice": True}], "schedule.0.choice", "an integer from 0"),
        (
            [*({**ENTRY, "choice": n} for n in range(500)), *({"from_token": 2 + n, "beta": 1} for n in range(2))],
            "schedule",
            "at most 1000",
        ),
        ([{"beta": 1}], "schedule.0.from_token", "an integer from 0"),
        ([{"from_token": -1, "beta": 1}], "schedule.0.from_token", "an integer from 0"),
        ([{"from_token": True, "beta": 1}], "schedule.0.from_token", "an integer from 0"),
        ([{"from_token": 2**40, "beta": 1}], "schedule.0.from_token", "an integer from 0"),
        ([{"from_token": 1}], "schedule.0", "one or more of objective_weights, beta, kl_budget"),
        ([{**ENTRY, "weights": {}}], "schedule.0.weights", 'did you mean "objective_weights"'),
        (
            [{**ENTRY, "scoring": "fast"}],
            "schedule.0.scoring",
            "from_token, objective_weights, beta, kl_budget, choice",
        ),
        ([{**ENTRY, "objective_weights": 3}], "schedule.0.objective_weights", "from objective to number or null"),
        ([{**ENTRY, "objective_weights": {"humour": 1}}], "schedule.0.objective_weights.humour", "positivity"),
        ([{**ENTRY, "objective_weights": {"simplicity": 2}}], "schedule.0.objective_weights.simplicity", "-1 to 1"),
        ([ENTRY, {"from_token": 2, "beta": 10**400}], "schedule.1.beta", "0 to"),
        ([{"from_token": n, "beta": 1} for n in range(MAX_ENTRIES + 1)], "schedule", f"at most {MAX_ENTRIES}"),
    ],
)
def test_what_cannot_be_read_is_refused_by_entry_and_field(schedule: Any, param: str, allowed: str) -> None:
    with pytest.raises(FieldError) as refused:
        catalogue().check({"schedule": schedule}, "x")
    assert refused.value.param == param
    assert re.search(re.escape(allowed), refused.value.allowed), refused.value.allowed
