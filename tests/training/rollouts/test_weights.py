"""What a nat costs each objective of a tree that several tilt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.rollouts.weights import prices

WEIGHTS = st.dictionaries(st.sampled_from("abc"), st.floats(-2, 2).filter(lambda w: abs(w) > 1e-3), min_size=1)


@given(WEIGHTS, st.floats(0, 1))
def test_as_weighed_the_objectives_pay_zeta_for_a_nat(weights: dict[str, float], zeta: float) -> None:
    paid = dict(zip("abc", prices(zeta, weights, "abc"), strict=True))
    assert sum(weight * paid[name] for name, weight in weights.items()) == pytest.approx(zeta)
    assert all(paid[name] == 0 for name in set("abc") - weights.keys())


def test_one_objective_at_weight_1_pays_as_in_the_paper() -> None:
    assert prices(0.03, {"b": 1.0}, ["a", "b"]) == [0.0, 0.03]
    assert prices(0.03, {"b": -1.0}, ["a", "b"]) == [0.0, -0.03]


def test_replies_of_the_base_have_the_price_whatever_is_learned() -> None:
    assert prices(0.03, {}, ["a", "b"]) == [0.03, 0.03]
