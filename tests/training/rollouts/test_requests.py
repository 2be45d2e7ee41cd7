"""Requests to sample: one a prompt and sample, paired by their seeds, each generation with an id of its own."""

from training.prompts.chat import ChatPrompt
from training.rollouts.requests import request_seed, requests_to_sample
from valuemodels.contract.guidance import Guidance

PROMPTS = [ChatPrompt(name, "train" if name == "a" else "test", name, (1, 2)) for name in "abc"]
WARM = Guidance("", weights={"warmth": 1.0})


def test_there_is_one_request_a_prompt_and_sample_in_order() -> None:
    requests = requests_to_sample(PROMPTS, lambda prompt: 2 if prompt.split == "train" else 1, seed=1)
    assert [(r.prompt_id, r.sample) for r in requests] == [("a", 0), ("a", 1), ("b", 0), ("c", 0)]
    assert all(r.guidance is None and r.prompt_token_ids == (1, 2) for r in requests)


def test_guided_and_unguided_requests_are_paired_by_their_seeds() -> None:
    """Otherwise a slider's effect would drown in the noise of sampling."""
    plain = requests_to_sample(PROMPTS, 3, seed=1)
    warm = requests_to_sample(PROMPTS[::-1], 5, seed=1, guidance=WARM, label="warm")
    seeds = {(r.prompt_id, r.sample): r.seed for r in warm}
    assert all(seeds[r.prompt_id, r.sample] == r.seed for r in plain)
    assert len(set(seeds.values())) == len(seeds)


def test_another_series_of_seeds_shares_none() -> None:
    one, other = (requests_to_sample(PROMPTS, 4, seed=1, seeds=name) for name in ("", "distill-"))
    assert not {r.seed for r in one} & {r.seed for r in other}


def test_every_generation_has_an_id_of_its_own() -> None:
    requests = [
        *requests_to_sample(PROMPTS, 2, 1, WARM, label="one"),
        *requests_to_sample(PROMPTS, 2, 1, WARM, label="two"),
    ]
    assert len({r.guidance.generation_id for r in requests if r.guidance}) == 12
    assert all(r.guidance and r.guidance.weights == {"warmth": 1.0} for r in requests)


def test_guidance_may_follow_from_prompt_and_sample() -> None:
    requests = requests_to_sample(PROMPTS, 2, 1, lambda prompt, sample: WARM if sample else None)
    assert [r.guidance is None for r in requests] == [True, False] * 3


def test_a_seed_does_not_depend_on_the_neighbours() -> None:
    assert request_seed(1, "a", 0) == request_seed(1, "a", 0)
    assert len({request_seed(run, prompt, sample) for run in (1, 2) for prompt in "ab" for sample in (0, 1)}) == 8
