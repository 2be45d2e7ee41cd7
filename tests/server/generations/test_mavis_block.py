"""The `mavis` block of a choice: what is cut, what is summed, what JSON can carry."""

import copy
import math
from typing import Any

import pytest

from server.generations.choice import Choice
from server.generations.mavis_block import MavisBlock
from tests.server.kit import catalogue, checked, trace

BLOCK = MavisBlock(("positivity", "simplicity"), "test-1")


def choice(returned: int, known: int, **columns: Any) -> Choice:
    made = Choice(token_ids=list(range(returned)))
    made.trace.extend({**trace(0, known, candidates=True), **columns})
    return made


def test_totals_are_sums_over_the_returned_tokens_alone() -> None:
    """A stop string is found after the worker has sampled on; what came after it is nobody's business."""
    block = BLOCK.whole(choice(returned=3, known=5), checked().resolved)
    assert block == {
        "objective_weights": {"positivity": 1.0, "simplicity": 0.0},
        "beta": 1.0,
        "scoring": "exact",
        "checkpoint": "test-1",
        "kl": 0 + 1 / 8 + 2 / 8,
        "values": {"positivity": 0.75, "simplicity": -0.75},
        "fallback_tokens": 0,
    }


def test_tokens_come_when_asked_for_and_are_cut_as_well() -> None:
    resolved = checked({"objective_weights": {"positivity": 1}, "return_values": True}).resolved
    tokens = BLOCK.whole(choice(returned=2, known=5), resolved)["tokens"]
    assert tokens == [
        {
            "token_id": 0,
            "kl": 0.0,
            "values": {"positivity": 0.0, "simplicity": 0.0},
            "levels": {"positivity": 0.5, "simplicity": 1.5},
        },
        {
            "token_id": 1,
            "kl": 0.125,
            "values": {"positivity": 0.25, "simplicity": -0.25},
            "levels": {"positivity": 0.5, "simplicity": 1.5},
        },
    ]


def test_candidates_come_with_their_names() -> None:
    resolved = checked({"return_values": "candidates"}).resolved
    (token,) = BLOCK.whole(choice(returned=1, known=1), resolved)["tokens"]
    assert token["candidates"] == [
        {
            "token_id": 7,
            "logprob": -0.5,
            "tilted_logprob": -0.25,
            "values": {"positivity": 1.0, "simplicity": 2.0},
        }
    ]


def test_what_pruning_dropped_is_told_where_pruning_was_asked_for() -> None:
    asked = {"return_values": True, "candidate_min_p": 0.01}
    (token,) = BLOCK.whole(choice(returned=1, known=1), checked(asked).resolved)["tokens"]
    assert token["dropped_mass"] == 0.01
    (token,) = BLOCK.whole(choice(returned=1, known=1), checked({"return_values": True}).resolved)["tokens"]
    assert "dropped_mass" not in token


def test_a_token_that_was_not_scored_has_no_values_and_adds_nothing() -> None:
    block = BLOCK.whole(
        choice(returned=2, known=2, advantages=[None, [1.0, 2.0]], levels=[None, [0.0, 0.0]]),
        checked({"return_values": True}).resolved,
    )
    assert block["tokens"][0]["values"] is None
    assert block["tokens"][0]["levels"] is None
    assert block["values"] == {"positivity": 1.0, "simplicity": 2.0}


def test_a_part_of_a_sum_is_not_given_for_the_sum() -> None:
    """The worker forgets the oldest traces when there are too many."""
    block = BLOCK.whole(choice(returned=3, known=2), checked().resolved)
    assert block["kl"] is None
    assert block["values"] == {}


def test_an_answer_without_tokens_costs_nothing() -> None:
    block = BLOCK.whole(choice(returned=0, known=0), checked().resolved)
    assert block["kl"] == 0.0
    assert block["values"] == {"positivity": 0.0, "simplicity": 0.0}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_carry_becomes_null(number: float) -> None:
    resolved = checked({"return_values": True}).resolved
    block = BLOCK.whole(choice(returned=1, known=1, kl=[number], advantages=[[number, 1.0]]), resolved)
    assert block["kl"] is None
    assert block["values"] == {"positivity": 0.0, "simplicity": 0.0}
    assert block["tokens"][0]["kl"] is None
    assert block["tokens"][0]["values"] is None


def test_tokens_already_streamed_are_not_told_twice() -> None:
    resolved = checked({"return_values": True}).resolved
    one = choice(returned=2, known=5)
    assert [token["token_id"] for token in BLOCK.tokens(one, resolved)] == [0, 1]
    one.streamed, one.token_ids = 2, [0, 1, 2, 3]
    assert [token["token_id"] for token in BLOCK.whole(one, resolved)["tokens"]] == [2, 3]


def test_writing_a_block_changes_nothing() -> None:
    """A block that counts what it has told would tell a GET less than a stream."""
    resolved = checked({"objective_weights": {"positivity": 1}, "return_values": True}).resolved
    one = choice(returned=2, known=5)
    before = copy.deepcopy(one)
    for write in (BLOCK.whole, BLOCK.totals, BLOCK.tokens):
        assert write(one, resolved) == write(one, resolved)
    BLOCK.steering(one, resolved, 2)
    BLOCK.so_far(one, resolved, resolved, range(5))
    assert one == before


def test_tokens_that_fell_back_are_counted_among_those_that_were_returned() -> None:
    """A block said `kl: 0` of a text that nothing had guided, as if guidance had cost nothing."""
    block = BLOCK.whole(choice(returned=2, known=3, fell_back=[True, False, True]), checked().resolved)
    assert block["fallback_tokens"] == 1


def test_what_the_operator_pins_is_told() -> None:
    pinned = catalogue(floors={"simplicity": 0.5}).check({"objective_weights": {"positivity": 1}}, "g").resolved
    assert BLOCK.whole(choice(returned=1, known=1), pinned)["pinned"] == {"simplicity": 0.5}
    assert "pinned" not in BLOCK.whole(choice(returned=1, known=1), checked().resolved)
