"""Rollout trees: their shape, what their paths share, and that chance follows from prompt and node alone."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.prompts.chat import ChatPrompt
from training.rollouts.engine import Limits, Reply
from training.rollouts.requests import Request, requests_to_sample
from training.rollouts.tree import sample_trees, sampled_tokens, segment_tokens
from valuemodels.contract.guidance import Guidance

END = 1
PROMPTS = [ChatPrompt(name, "train", name, (7, 8, 9)) for name in ("a", "b", "c")]


class LettersEngine:
    """Goes on until a request's limit, or ends a reply by itself, at each token with the same chance."""

    def __init__(self, ends: float = 0.0) -> None:
        self.ends = ends
        self.asked: list[list[Request]] = []

    def sample(self, requests: Sequence[Request], limits: Limits) -> list[Reply]:
        self.asked.append(list(requests))
        return [self._reply(request, limits) for request in requests]

    def text_of(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))

    def _reply(self, request: Request, limits: Limits) -> Reply:
        dice = random.Random(request.seed)
        tokens: list[int] = []
        while len(tokens) < min(request.max_tokens or limits.max_tokens, limits.max_tokens):
            tokens.append(END if dice.random() < self.ends else dice.randint(2, 99))
            if tokens[-1] == END:
                break
        finish_reason = "stop" if tokens[-1] == END else "length"
        log_ratios = () if request.guidance is None else tuple(token / 100 for token in tokens)
        prompt = (request.prompt_id, request.prompt_token_ids, request.sample)
        return Reply(*prompt, tuple(tokens), self.text_of(tokens), finish_reason, sum(log_ratios), log_ratios)


def grown(engine: LettersEngine, children: Sequence[int], max_tokens: int = 40, seed: int = 3) -> list[Reply]:
    return sample_trees(engine, PROMPTS, lambda _: children, Limits(max_tokens), seed)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(4, 60), st.floats(0, 0.3), st.integers(0, 9))
def test_leaves_are_whole_replies_of_paths_that_share_what_they_should(
    children: list[int], max_tokens: int, ends: float, seed: int
) -> None:
    leaves = grown(LettersEngine(ends), children, max_tokens, seed)
    segments: dict[tuple[str, int], tuple[int, ...]] = {}
    for leaf in leaves:
        assert len(leaf.nodes) == len(leaf.ends) <= len(children) and leaf.ends[-1] == len(leaf.token_ids) <= max_tokens
        ended = leaf.token_ids[-1] == END
        assert leaf.finish_reason == ("stop" if ended else "length") and (ended or len(leaf.token_ids) == max_tokens)
        assert END not in leaf.token_ids[:-1] and len(leaf.log_ratios) == len(leaf.token_ids)
        for node, end in zip(leaf.nodes, leaf.ends, strict=True):
            # A node is the same text, from the root on, in every leaf below it.
            assert segments.setdefault((leaf.prompt_id, node), leaf.token_ids[:end]) == leaf.token_ids[:end]
    for prompt in PROMPTS:
        own = [leaf for leaf in leaves if leaf.prompt_id == prompt.prompt_id]
        assert [leaf.sample for leaf in own] == list(range(len(own)))
        below = Counter(leaf.nodes[:depth] for leaf in own for depth in range(len(leaf.nodes)))
        for path in below:
            branches = {leaf.nodes[: len(path) + 1] for leaf in own if leaf.nodes[: len(path)] == path} - {path}
            assert len(branches) == children[len(path)]


def test_one_layer_is_flat_sampling_with_the_same_seeds() -> None:
    engine = LettersEngine(0.1)
    leaves = grown(engine, [4], seed=11)
    flat = requests_to_sample(PROMPTS, 4, seed=11)
    assert [(r.prompt_id, r.sample, r.seed) for r in engine.asked[0]] == [(r.prompt_id, r.sample, r.seed) for r in flat]
    assert [leaf.nodes for leaf in leaves[:4]] == [(1,), (2,), (3,), (4,)]


def test_what_is_shared_is_sampled_once() -> None:
    engine = LettersEngine()
    leaves = grown(engine, [2, 2, 2])
    replies = [request for layer in engine.asked for request in layer]
    assert len(engine.asked) == 3 and len(replies) == 3 * (2 + 4 + 8) and len(leaves) == 3 * 8
    assert sampled_tokens(leaves) == sum(request.max_tokens or 0 for request in replies) < 24 * 40


def test_a_tree_does_not_hang_on_which_others_there_are() -> None:
    together = grown(LettersEngine(0.05), [3, 2])
    alone = sample_trees(LettersEngine(0.05), PROMPTS[1:2], lambda _: [3, 2], Limits(40), 3)
    assert [leaf.token_ids for leaf in together if leaf.prompt_id == "b"] == [leaf.token_ids for leaf in alone]


def test_a_first_segment_that_ends_by_itself_is_cut_and_goes_on() -> None:
    leaves = grown(LettersEngine(0.5), [6, 2], max_tokens=30)
    assert sum(len(leaf.nodes) == 2 for leaf in leaves) > len(leaves) / 2
    assert all(len(leaf.token_ids) == 1 for leaf in leaves if len(leaf.nodes) == 1), "nothing is left to cut"


def test_guided_trees_keep_each_tokens_log_ratio_and_name_each_generation_once() -> None:
    engine = LettersEngine(0.1)
    guidance = Guidance("round-1", weights={"positivity": 1.0})
    leaves = sample_trees(engine, PROMPTS, lambda _: [2, 3], Limits(20), 5, lambda _: guidance)
    for leaf in leaves:
        assert leaf.log_ratios == pytest.approx([token / 100 for token in leaf.token_ids])
    names = [r.guidance.generation_id for layer in engine.asked for r in layer if r.guidance is not None]
    assert len(names) == len(set(names)) == sum(map(len, engine.asked))


@given(st.integers(1, 128), st.integers(1, 6), st.integers(0, 99))
def test_segments_are_as_long_as_leaves_room_on_average(left: int, layers_left: int, seed: int) -> None:
    length = segment_tokens(random.Random(seed), left, layers_left)
    assert 1 <= length <= left and (length == left or layers_left > 1)
    if layers_left > 1 and left >= 2 * layers_left:
        mean = sum(segment_tokens(random.Random(f"{seed} {n}"), left, layers_left) for n in range(400)) / 400
        assert mean == pytest.approx(left / layers_left, rel=0.25, abs=1)
