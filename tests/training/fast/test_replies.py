"""Sampling around a fake engine: who is sampled how, and what an interruption leaves."""

import random
from collections import Counter

import pytest
import torch

from tests.training.fake_engines import RecordingEngine
from training.errors import RewardError
from training.fast import checkpoint, replies, reply_rewards
from training.fast.positions import PositionData, load_positions
from training.fast.replies import reply_requests, reply_shards
from training.fast.reply_rewards import read_shard_rewards
from training.fast.run import FastRun
from training.fast_recipe import TiltRecipe
from training.prompts.chat import ChatPrompt
from training.rewards.reward import load_reward
from training.rollouts.shards import read_shard
from training.rollouts.weights import draw_weights
from training.stages import run_stage
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.guide_config import GuideConfig

PROMPTS = [ChatPrompt(f"p{number}", "train", "text", (5, 6, 7)) for number in range(300)]


def sample(run: FastRun) -> None:
    for name in ("prompts", "invented", "replies"):
        run_stage(run, name)


def loaded(run: FastRun) -> PositionData:
    means, stds = (torch.tensor(column) for column in zip(*run.base_rewards().values(), strict=True))
    return load_positions(run, means, stds)


def test_replies_of_the_base_are_watched_but_not_tilted(fresh: FastRun) -> None:
    """Would catch base replies whose positions nobody records: the guide leaves plain rows alone."""
    for request in reply_requests(fresh, PROMPTS[:5]):
        assert request.guidance is not None
        assert request.guidance.weights == {} and request.guidance.trace == "values"
        assert request.guidance.scoring == "fast"


def test_every_prompt_has_its_number_of_replies(finished: FastRun) -> None:
    counts = [Counter[tuple[str, str]](), Counter[tuple[str, str]]()]
    for iteration in finished.iterations:
        for shard in reply_shards(iteration):
            counts[iteration.iteration].update((r.prompt_id, r.split) for r in read_shard(shard.path))
    assert set(Counter(split for _, split in counts[0]).values()) == {30, 30 + 30}, "no test prompt, all invented ones"
    assert {(split, count) for (_, split), count in counts[0].items()} == {("train", 4), ("validation", 6)}
    assert {(split, count) for (_, split), count in counts[1].items()} == {("train", 3)}


def test_later_rounds_are_tilted_by_the_probe_before(finished: FastRun, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[GuideConfig] = []

    class Engine(RecordingEngine):
        def __init__(self, base: str, recipe: object, guide: GuideConfig) -> None:
            super().__init__()
            seen.append(guide)

    monkeypatch.setattr(replies, "RolloutEngine", Engine)
    shard = reply_shards(finished.at(1))[0]
    before = shard.path.read_bytes()
    shard.path.unlink()
    replies.sample_replies(finished.at(1))
    assert shard.path.read_bytes() == before
    assert seen[0].checkpoints == (str(finished.at(0).stage("probe").folder / "values"),)
    requests = reply_requests(finished.at(1), PROMPTS)
    assert all(request.guidance and request.guidance.weights for request in requests)


def test_weights_are_those_of_the_recipe() -> None:
    tilts, dice = TiltRecipe(low=0.5, high=1.0, negative=0.25, mixed=0.2), random.Random(0)
    drawn = [draw_weights(["a", "b"], tilts, dice) for _ in range(4000)]
    assert sum(len(weights) == 2 for weights in drawn) == pytest.approx(800, rel=0.1)
    assert sum("a" in weights and len(weights) == 1 for weights in drawn) == pytest.approx(1600, rel=0.1)
    values = [value for weights in drawn for value in weights.values()]
    assert all(0.5 <= abs(value) <= 1.0 for value in values)
    assert sum(value < 0 for value in values) == pytest.approx(len(values) / 4, rel=0.1)


def test_request_does_not_depend_on_its_neighbours(finished: FastRun) -> None:
    run = finished.at(1)
    whole = {(r.prompt_id, r.sample): r for r in reply_requests(run, PROMPTS[:10])}
    alone = {(r.prompt_id, r.sample): r for r in reply_requests(run, PROMPTS[3:5])}
    assert all(whole[key] == request for key, request in alone.items())
    assert len({request.seed for request in whole.values()}) == len(whole)
    base = {(r.prompt_id, r.sample): r.seed for r in reply_requests(run.at(0), PROMPTS[:10])}
    assert not {request.seed for request in whole.values()} & set(base.values()), "rounds do not repeat each other"


def test_interrupted_sampling_repeats_the_missing_shard_alone(fresh: FastRun) -> None:
    sample(fresh)
    run_stage(fresh, "reply_rewards")
    whole = loaded(fresh)
    (fresh.stage("replies").folder / "done.json").unlink()
    shard = reply_shards(fresh)[1]
    shard.path.unlink()  # killed after the positions, before the replies
    RecordingEngine.asked = []
    run_stage(fresh, "replies")
    assert {request.prompt_id for request in RecordingEngine.asked} == {p.prompt_id for p in shard.prompts}
    assert torch.equal(loaded(fresh).token_ids, whole.token_ids)


def test_engine_that_dies_leaves_no_shard(fresh: FastRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prompts", "invented"):
        run_stage(fresh, name)
    monkeypatch.setattr(RecordingEngine, "dies_after", 1)
    with pytest.raises(RuntimeError, match="died"):
        run_stage(fresh, "replies")
    assert [shard.is_done for shard in reply_shards(fresh)].count(True) == 1


def test_teacher_of_another_tokenizer_is_refused(fresh: FastRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "tokenizer_fingerprint", lambda model: "0123456789abcdef")
    with pytest.raises(CheckpointError, match=r"trained with the tokenizer of tiny-base .* another one"):
        sample(fresh)


def test_every_token_has_the_reward_of_the_text_before_it(fresh: FastRun) -> None:
    sample(fresh)
    run_stage(fresh, "reply_rewards")
    warmth = load_reward(fresh.rewards["warmth"])
    for shard in reply_shards(fresh)[:2]:
        final, prefixes = read_shard_rewards(fresh, shard)
        start = 0
        for number, reply in enumerate(read_shard(shard.path)):
            assert final[number, 0] == warmth([""], [reply.text])[0]
            # The tiny tokenizer's tokens are letters, which its texts hold with spaces between them.
            for place in range(len(reply.output_token_ids)):
                assert prefixes[start + place, 0] == warmth([""], [reply.text[: 2 * place]])[0]
            start += len(reply.output_token_ids)
        assert len(prefixes) == start


def test_dear_rewards_are_held_between_two_prefixes(fresh: FastRun) -> None:
    critic = fresh.recipe.fast.critic.model_copy(update={"prefix_every": 3})
    fast = fresh.recipe.fast.model_copy(update={"critic": critic})
    run = FastRun(
        fresh.recipe.model_copy(update={"fast": fast}), fresh.run_dir, fresh.base_folder, teacher=fresh.teacher
    )
    sample(run)
    run_stage(run, "reply_rewards")
    warmth = load_reward(run.rewards["warmth"])
    shard = reply_shards(run)[0]
    _, prefixes = read_shard_rewards(run, shard)
    start = 0
    for reply in read_shard(shard.path):
        for place in range(len(reply.output_token_ids)):
            assert prefixes[start + place, 0] == warmth([""], [reply.text[: 2 * (place - place % 3)]])[0]
        start += len(reply.output_token_ids)


def test_only_a_whole_round_must_not_score_alike(fresh: FastRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a rare reward ending the run at the first shard in which nobody earned it."""
    sample(fresh)

    class Rare:
        """Gives a point in the first shard alone."""

        calls = 0

        def __call__(self, prompts: list[str], replies: list[str]) -> list[float]:
            Rare.calls += 1
            return [float(Rare.calls <= 2 and number == 0) for number in range(len(replies))]

    monkeypatch.setattr(reply_rewards, "load_reward", lambda identifier: Rare())
    reply_rewards_folder = fresh.stage("reply_rewards").start()
    assert reply_rewards.score_replies(fresh)["base"]["warmth"]["std"] > 0
    for path in reply_rewards_folder.glob("rewards_*"):
        path.unlink()
    with pytest.raises(RewardError, match=r"reward 'warmth' scored all .* replies 0.0; nothing to learn from"):
        reply_rewards.score_replies(fresh)
