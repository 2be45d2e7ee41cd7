"""Preferences of replies that are there: who is set against whom, and who is not."""

from hypothesis import given
from hypothesis import strategies as st

from training.experts.preferences import budget, preferences
from training.rollouts.shards import Rollout


def reply(prompt: str, token: int) -> Rollout:
    return Rollout(prompt, "train", token, (1, 2), (token, 9), f"{token}", "stop", 0.0)


REPLIES = [reply("a", 3), reply("a", 4), reply("a", 5), reply("a", 6), reply("b", 7), reply("b", 8)]


def test_the_best_is_set_against_the_worst_and_the_second_against_the_second() -> None:
    found = preferences(REPLIES, [0.1, 0.9, 0.5, 0.3, 2.0, 1.0], 2)
    assert [(each.chosen[0], each.rejected[0]) for each in found] == [(4, 3), (5, 6), (7, 8)]
    assert found[0].prompt == (1, 2) and found[0].chosen == (4, 9)
    assert len(preferences(REPLIES, [0.1, 0.9, 0.5, 0.3, 2.0, 1.0], 1)) == 2


def test_replies_that_score_alike_prefer_nothing() -> None:
    assert preferences(REPLIES, [1.0] * 6, 2) == []
    assert [each.chosen[0] for each in preferences(REPLIES, [0, 1, 1, 1, 2, 2], 2)] == [4]


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6), st.integers(1, 4))
def test_the_chosen_always_scored_more_and_none_is_used_twice(scores: list[float], pairs: int) -> None:
    found = preferences(REPLIES, scores, pairs)
    by_token = {reply.output_token_ids[0]: score for reply, score in zip(REPLIES, scores, strict=True)}
    assert all(by_token[each.chosen[0]] > by_token[each.rejected[0]] for each in found)
    used = [tokens[0] for each in found for tokens in (each.chosen, each.rejected)]
    assert len(used) == len(set(used))


def test_a_budget_counts_replies_and_tokens() -> None:
    assert budget(REPLIES) == {"replies": 6, "tokens": 12}
