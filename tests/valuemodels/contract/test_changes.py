"""What many changes add up to, against a model that simply applies them one after another."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from valuemodels.contract.changes import Change, Overrides
from valuemodels.contract.guidance import Guidance
from valuemodels.contract.policy import GuidancePolicy
from valuemodels.guide.changed import ChangedGenerations

POLICY = GuidancePolicy(objectives=("warmth", "brevity"), default_weights={"brevity": 0.5}, default_beta=2.0)
CHOICES = ("0:0", "0:1", "1:0")
ASKED = Guidance("g", weights={"warmth": 1.0}, beta=1.5, kl_budget=0.25)

numbers = st.none() | st.sampled_from([-1.0, 0.0, 0.25, 1.0])
fields = st.dictionaries(
    st.sampled_from(["objective_weights.warmth", "objective_weights.brevity", "beta", "kl_budget"]), numbers
)
changes = st.lists(
    st.builds(Change, st.just("g"), fields, st.none() | st.sampled_from(CHOICES)),
    max_size=12,
)


def one_after_another(asked: Guidance, choice: str, wanted: list[Change]) -> Guidance:
    """The contract, word for word: named keys change, others stay, null is the default; all choices, or one."""
    for change in wanted:
        if change.choice not in (None, choice):
            continue
        for name, value in change.fields.items():
            head, _, objective = name.partition(".")
            if not objective:
                asked = replace(asked, **{head: value})
            elif value is None:
                asked = replace(asked, weights={n: w for n, w in asked.weights.items() if n != objective})
            else:
                asked = replace(asked, weights={**asked.weights, objective: value})
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
    assert [Change(**change.to_wire()) for change in wanted] == wanted


def test_generations_are_steered_apart_and_forgotten_apart() -> None:
    steered = ChangedGenerations()
    steered.take([Change("a", {"beta": 1.0}), Change("b", {"beta": 2.0}), Change("a", {"beta": 3.0})])
    betas = {name: overrides.over(ASKED, "0:0").beta for name in "ab" if (overrides := steered.get(name))}
    assert betas == {"a": 3.0, "b": 2.0}
    steered.drop(["a", "unknown"])
    assert steered.get("a") is None
    assert len(steered) == 1
