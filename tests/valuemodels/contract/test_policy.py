"""Requests are checked against the operator's policy, and resolved the same way on both sides of the engine."""

import dataclasses
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.guidance import Guidance
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.policy import Bounds, GuidancePolicy, KeyRules

POLICY = GuidancePolicy(
    objectives=("warmth", "brevity"),
    default_weights={"brevity": 0.5},
    bounds={"warmth": Bounds(-1.0, 1.5)},
    default_candidates=20,
    max_candidates=32,
)


def ask(**fields: object) -> Guidance:
    return Guidance(generation_id="g", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("guidance", "field", "allowed"),
    [
        (ask(weights={"humour": 1.0}), "objective_weights.humour", "one of warmth, brevity"),
        (ask(weights={"warmth": 1.6}), "objective_weights.warmth", "a number from -1 to 1.5"),
        (ask(weights={"brevity": -2.01}), "objective_weights.brevity", "a number from -2 to 2"),
        (ask(weights={"warmth": "1"}), "objective_weights.warmth", "a number"),
        (ask(weights={"warmth": None}), "objective_weights.warmth", "a number"),
        (ask(weights={"warmth": True}), "objective_weights.warmth", "a number"),
        (ask(weights={"warmth": math.nan}), "objective_weights.warmth", "a number"),
        (ask(weights={"warmth": math.inf}), "objective_weights.warmth", "a number"),
        (ask(beta=-0.1), "beta", "a number from 0"),
        (ask(beta=math.inf), "beta", "a number from 0"),
        (ask(candidates=0), "candidates", "an integer from 1 to 32"),
        (ask(candidates=33), "candidates", "an integer from 1 to 32"),
        (ask(candidates=2.0), "candidates", "an integer"),
        (ask(kl_budget=0), "kl_budget", "above 0"),
        (ask(kl_budget=math.nan), "kl_budget", "above 0"),
        (ask(candidate_min_p=1.0), "candidate_min_p", "from 0 to below 1"),
        (ask(candidate_min_p=-0.1), "candidate_min_p", "from 0 to below 1"),
        (ask(candidate_min_p=math.nan), "candidate_min_p", "from 0 to below 1"),
        (ask(candidate_min_p="0.1"), "candidate_min_p", "from 0 to below 1"),
        (ask(scoring="fast"), "scoring", "one of exact"),
        (ask(trace="all"), "return_values", "candidates"),
    ],
)
def test_a_refusal_names_field_value_and_what_is_allowed(guidance: Any, field: Any, allowed: Any) -> None:
    with pytest.raises(GuidanceError) as refused:
        POLICY.check(guidance)
    assert refused.value.field == field
    assert allowed in refused.value.allowed
    assert field in str(refused.value) and "allowed is" in str(refused.value)


def test_the_operators_share_holds_where_a_request_says_none_and_is_checked_as_well() -> None:
    policy = dataclasses.replace(POLICY, default_candidate_min_p=0.02)
    assert policy.resolve(None).candidate_min_p == policy.resolve(ask()).candidate_min_p == 0.02
    assert policy.resolve(ask(candidate_min_p=0)).candidate_min_p == 0
    with pytest.raises(GuidanceError, match="candidate_min_p: got 2"):
        dataclasses.replace(POLICY, default_candidate_min_p=2)


def test_bounds_are_inclusive() -> None:
    POLICY.check(ask(weights={"warmth": 1.5, "brevity": -2}, beta=0, candidates=32, kl_budget=1e-9))


def test_names_left_out_keep_the_operators_default_and_named_ones_win() -> None:
    assert POLICY.resolve(None).weights == (0.0, 0.5)
    assert POLICY.resolve(ask(weights={"warmth": 1})).weights == (1.0, 0.5)
    assert POLICY.resolve(ask(weights={"brevity": 0})).weights == (0.0, 0.0)


def test_a_request_is_plain_exactly_when_no_value_can_change_it() -> None:
    assert POLICY.resolve(ask(weights={"brevity": 0})).is_plain
    assert POLICY.resolve(ask(weights={"warmth": 1}, beta=0)).is_plain
    assert not POLICY.resolve(None).is_plain
    assert not POLICY.resolve(ask(weights={"brevity": -1e-9})).is_plain


PINNED = GuidancePolicy(
    objectives=("warmth", "brevity"),
    default_weights={"brevity": 1.0},
    bounds={"brevity": Bounds(0.5, 1.5)},
    floors={"warmth": 0.5},
    beta_bounds=Bounds(0.0, 4.0),
)
asked_weights = st.dictionaries(st.sampled_from(["warmth", "brevity"]), st.floats(-1e6, 1e6))


@given(asked_weights, st.none() | st.floats(0, 1e9), st.none() | st.floats(1e-300, 1e300))
def test_nothing_that_is_asked_takes_a_strength_out_of_its_bounds(weights: Any, beta: Any, budget: Any) -> None:
    """By beta 0 or 10000, or a tiny budget; in the worker also what the HTTP process would have refused."""
    held = PINNED.resolve(ask(weights=weights, beta=beta, kl_budget=budget))
    warmth, brevity = held.strengths
    assert 0.5 <= warmth <= 2.0 and 0.5 <= brevity <= 1.5
    assert held.pins == (0.5, 0.5) and not held.is_plain


def test_a_silent_request_runs_at_the_floor() -> None:
    assert PINNED.resolve(None).strengths == (0.5, 1.0) and PINNED.default_of("warmth") == 0.5


@pytest.mark.parametrize(
    ("guidance", "field", "value"),
    [
        (ask(weights={"warmth": 0.4}), "objective_weights.warmth", 0.4),
        (ask(beta=4.1), "beta", 4.1),
        (ask(weights={"brevity": 1.5}, beta=1.1), "beta", 1.1),
        (ask(weights={"warmth": 2}, beta=1.5), "beta", 1.5),
    ],
)
def test_weights_and_beta_whose_product_is_not_allowed_are_refused(guidance: Any, field: Any, value: Any) -> None:
    with pytest.raises(GuidanceError) as refused:
        PINNED.check(guidance)
    assert (refused.value.field, refused.value.value) == (field, value)


def test_a_strength_below_its_floor_is_raised_and_not_refused() -> None:
    low = ask(beta=0.0, kl_budget=1e-12)
    PINNED.check(low)
    assert PINNED.resolve(low).strengths == (0.5, 0.5)


def test_bounds_hold_in_units_of_the_default_strength() -> None:
    policy = GuidancePolicy(objectives=("warmth",), bounds={"warmth": Bounds(0, 1)}, default_beta=3.0)
    policy.check(ask(weights={"warmth": 1}))
    assert policy.resolve(ask(weights={"warmth": 1})).strengths == (3.0,)
    with pytest.raises(GuidanceError, match="beta"):
        policy.check(ask(weights={"warmth": 1}, beta=3.1))


def test_a_key_has_rules_of_its_own() -> None:
    rules = KeyRules(default_weights={"brevity": 0.25}, bounds={"warmth": Bounds(0, 0.5)}, floors={"warmth": 0.25})
    config = GuideConfig(checkpoints=(), base_model="base", default_weights={"brevity": 1.0}, keys={"kids": rules})
    wire = msgspec.json.decode(msgspec.json.encode(config.to_wire()))
    policy = GuideConfig.from_wire(wire).policy(("warmth", "brevity"))
    assert policy.resolve(ask(key="kids")).weights == (0.25, 0.25) and policy.resolve(ask()).weights == (0.0, 1.0)
    with pytest.raises(GuidanceError, match=r"objective_weights\.warmth"):
        policy.check(ask(weights={"warmth": 1}, key="kids"))
    policy.check(ask(weights={"warmth": 1}, key="other"))
    broken = dataclasses.replace(config, keys={"kids": KeyRules(floors={"humour": 1})})
    with pytest.raises(GuidanceError, match=r"keys\.kids\.floors\.humour"):
        broken.policy(("warmth", "brevity"))


def test_bounds_that_do_not_hold_the_default_and_floors_above_them_are_refused() -> None:
    for fields, where in (
        ({"bounds": {"warmth": Bounds(1, 2)}}, r"default_weights\.warmth: got 0\.0"),
        ({"floors": {"warmth": 2.5}}, r"floors\.warmth: got 2\.5"),
        ({"floors": {"humour": 1}}, r"floors\.humour"),
        ({"floors": {"warmth": 0.5}, "default_weights": {"warmth": 0.25}}, r"default_weights\.warmth: got 0\.25"),
        ({"beta_bounds": Bounds(-1, 2)}, r"beta_bounds"),
        ({"beta_bounds": Bounds(2, 3)}, r"beta: got 1"),
        ({"on_value_error": {"warmth": "retry"}}, r"on_value_error\.warmth"),
    ):
        with pytest.raises(GuidanceError, match=where):
            GuidancePolicy(objectives=("warmth",), **fields)


def test_an_operators_bad_defaults_are_refused_by_name() -> None:
    with pytest.raises(GuidanceError, match=r"default_weights\.humour"):
        GuidancePolicy(objectives=("warmth",), default_weights={"humour": 1.0})
    with pytest.raises(GuidanceError, match=r"default_weights\.warmth"):
        GuidancePolicy(objectives=("warmth",), default_weights={"warmth": 1.0}, bounds={"warmth": Bounds(-0.5, 0.5)})
    with pytest.raises(GuidanceError, match=r"bounds\.warmth"):
        GuidancePolicy(objectives=("warmth",), bounds={"warmth": Bounds(1.0, -1.0)})
    with pytest.raises(GuidanceError, match="candidates"):
        GuidancePolicy(objectives=("warmth",), default_candidates=65, max_candidates=64)


def test_guidance_survives_the_engines_own_serialisation() -> None:
    guidance = ask(weights={"warmth": 0.25}, kl_budget=0.5, trace="candidates", prompt_index=3)
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode({"mavis": guidance}))["mavis"]
    assert isinstance(wire, dict)
    assert Guidance.from_wire(wire) == guidance
    assert Guidance.from_wire(guidance) is guidance
    with pytest.raises(TypeError):
        Guidance.from_wire({**wire, "unknown": 1})


def test_the_workers_config_survives_json() -> None:
    config = GuideConfig(
        checkpoints=("a", "b"), base_model="base", default_weights={"warmth": 0.5}, bounds={"warmth": Bounds(0, 1)}
    )
    wire = msgspec.json.decode(msgspec.json.encode(config.to_wire()))
    assert GuideConfig.from_wire(wire) == config
    policy = config.policy(("warmth",))
    assert policy.bounds_of("warmth") == Bounds(0, 1) and policy.resolve(None).weights == (0.5,)


def test_records_are_frozen() -> None:
    for record in (ask(), POLICY, POLICY.resolve(None)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, dataclasses.fields(record)[0].name, None)
