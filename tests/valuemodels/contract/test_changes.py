"""What many changes add up to, against a model that simply applies them one after another."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valuemodels.contract.changes import KEEP, Change, Overrides
from valuemodels.contract.guidance import ChoiceName, Guidance
from valuemodels.contract.policy import GuidancePolicy

POLICY = GuidancePolicy(objectives=("warmth", "brevity"), default_weights={"brevity": 0.5}, default_beta=2.0)
CHOICES = (ChoiceName(0, 0), ChoiceName(0, 1), ChoiceName(1, 0))
ASKED = Guidance("g", weights={"warmth": 1.0}, beta=1.5, kl_budget=0.25)

numbers = st.none() | st.sampled_from([-1.0, 0.0, 0.25, 1.0])
weights = st.dictionaries(st.sampled_from(POLICY.objectives), numbers)
strengths = st.just(KEEP) | numbers
changes = st.lists(
    st.builds(Change, st.just("g"), weights, strengths, strengths, st.none() | st.sampled_from(CHOICES)), max_size=12
)


def one_after_another(asked: Guidance, choice: ChoiceName, wanted: list[Change]) -> Guidance:
    """The contract, word for word: named keys change, others stay, null is the default; all choices, or one."""
    for change in wanted:
        if change.choice not in (None, choice):
            continue
        for name, value in change.said.items():
            if name != "objective_weights":
                asked = replace(asked, **{name: value})
                continue
            for objective, weight in value.items():
                left = {n: w for n, w in asked.weights.items() if n != objective}
                asked = replace(asked, weights=left if weight is None else {**left, objective: weight})
    return asked


@given(changes)
def test_any_sequence_of_changes_ends_in_what_applying_them_in_order_gives(wanted: list[Change]) -> None:
    overrides = Overrides()
    for change in wanted:
        overrides.take(change)
    for choice in CHOICES:
        expected = POLICY.resolve(one_after_another(ASKED, choice, wanted))
        assert POLICY.resolve(overrides.over(ASKED, choice)) == expected


@given(changes)
def test_a_change_survives_the_wire(wanted: list[Change]) -> None:
    assert [Change.from_wire(json.loads(json.dumps(change.to_wire()))) for change in wanted] == wanted


@pytest.mark.parametrize("wire", [{"generation_id": "g", "strength": 1}, {"beta": 1}])
def test_a_change_of_another_shape_is_no_change(wire: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        Change.from_wire(wire)


def test_a_choice_survives_its_name() -> None:
    assert [ChoiceName.parse(str(choice)) for choice in CHOICES] == list(CHOICES)
