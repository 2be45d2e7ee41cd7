"""Looking ahead: whose text is scored, beside which candidate, and what a critic makes of it."""

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.training.recorded import NAMES, random_data
from training.errors import RunDirError
from training.fast.critic import foreseen_values
from training.fast.lookahead import Lookahead, load_lookahead
from training.fast.positions import PositionData, load_positions
from training.fast.replies import reply_shards
from training.fast.run import FastRun
from training.fast_recipe import CriticRecipe
from training.rewards.reward import load_reward
from training.rollouts.shards import read_shard
from training.runs.run import VALUES_FOLDER
from valuemodels.contract.value_config import read_value_config

TOKENS = 6
RECIPE = CriticRecipe(hidden=32, epochs=4, batch_size=64, learning_rate=3e-3)


def of_round(run: FastRun) -> tuple[PositionData, Lookahead, Tensor, Tensor]:
    means, stds = (torch.tensor(column) for column in zip(*run.base_rewards().values(), strict=True))
    data = load_positions(run, means, stds)
    return data, load_lookahead(run, data, means, stds), means, stds


@pytest.mark.parametrize("iteration", [0, 1])
def test_rewards_are_those_of_the_text_with_the_candidate(looking: FastRun, iteration: int) -> None:
    """Would catch rewards that are laid beside the wrong candidate, position or reply."""
    run = looking.at(iteration)
    data, looked, means, stds = of_round(run)
    warmth = load_reward(run.rewards["warmth"])
    replies = {(r.prompt_id, r.sample): r for shard in reply_shards(run) for r in read_shard(shard.path)}
    letters = "".join(chr(ord("a") + n) for n in range(26)) + "".join(chr(ord("A") + n) for n in range(26))
    for label in range(0, len(looked), 5):
        position = int(looked.position[label])
        before = replies[data.keys[int(data.reply[position])]].output_token_ids[: int(data.place[position])]
        for place, candidate in enumerate(looked.candidates[label].tolist()):
            tokens = [*before, int(data.token_ids[position, candidate])]
            written = warmth([""], [" ".join(letters[token - 2] for token in tokens)])[0]
            expected = ((written - means[0]) / stds[0]).clamp(-run.recipe.fit.clip, run.recipe.fit.clip)
            assert float(looked.rewards[label, place, 0]) == pytest.approx(float(expected), abs=1e-5)


def test_every_reply_to_learn_from_is_looked_at_and_no_other(looking: FastRun) -> None:
    data, looked, _, _ = of_round(looking.at(0))
    seen = set(data.reply[looked.position].tolist())
    assert seen == {number for number, split in enumerate(data.splits) if split == "train"}


def test_a_probe_that_looked_ahead_has_no_teacher_and_gains_more(looking: FastRun, finished: FastRun) -> None:
    """A letter's worth is known of every letter that could have come, not of those alone that did."""
    ahead, sampled = (
        read_value_config(run.at(1).finished("probe") / VALUES_FOLDER).probe for run in (looking, finished)
    )
    assert ahead is not None and ahead.origin is not None and ahead.origin.distilled_from is None
    assert sampled is not None and sampled.origin is not None and sampled.origin.distilled_from == "letters"
    for name in NAMES:
        assert ahead.metrics[name]["validation_gain"] > sampled.metrics[name]["validation_gain"] + 0.02


def test_a_round_that_was_not_looked_at_is_named(fresh: FastRun) -> None:
    with pytest.raises(RunDirError, match="lookahead"):
        load_lookahead(fresh, random_data(2, 2), torch.zeros(2), torch.ones(2))


def looked_at(data: PositionData, rewards: Tensor, ends: Tensor | None = None) -> Lookahead:
    """All candidates of all positions to learn from."""
    position = torch.tensor([split == "train" for split in data.splits])[data.reply].nonzero().flatten()
    shape = data.token_ids[position].shape
    nothing = torch.zeros(shape, dtype=torch.bool)
    weights = data.base_logprobs[position].exp()
    candidates = torch.arange(shape[1]).expand(shape)
    return Lookahead(position, candidates, weights, rewards[position], nothing if ends is None else ends)


def test_candidates_are_worth_what_their_reward_leads_to() -> None:
    """Every token earns points of its own, 0 on average: a reply can expect what it has with the candidate."""
    data = random_data(2000, TOKENS, held_out=40)
    dice = torch.Generator().manual_seed(5)
    points = torch.randn(*data.token_ids.shape, len(NAMES), generator=dice)
    earned = points.gather(1, data.chosen[:, None, None].expand(-1, 1, len(NAMES)))[:, 0]
    table = earned.reshape(-1, TOKENS, len(NAMES))
    before = (table.cumsum(1) - table).reshape(-1, len(NAMES))
    data = dataclasses.replace(data, prefix_rewards=before, final_rewards=table.sum(1))
    looked = looked_at(data, before[:, None] + points)
    found = foreseen_values(data, looked, RECIPE, TOKENS, seed=0)
    unexplained = (found - looked.rewards).square().mean() / looked.rewards.square().mean()
    assert unexplained < 0.1, "what later tokens earn has an expectation of 0 here"


def test_where_a_candidate_ends_the_reply_its_reward_is_the_replys() -> None:
    data = random_data(20, 3)
    rewards = torch.randn(*data.token_ids.shape, len(NAMES), generator=torch.Generator().manual_seed(2))
    ends = torch.zeros(data.token_ids.shape, dtype=torch.bool)
    ends[::4, 3] = True
    looked = looked_at(data, rewards, ends)
    found = foreseen_values(data, looked, RECIPE.model_copy(update={"epochs": 1}), 3, seed=0)
    assert torch.equal(found[ends], rewards[ends]) and not torch.isclose(found[~ends], rewards[~ends]).any()


def test_no_candidate_is_judged_by_a_critic_that_saw_its_prompt() -> None:
    """A spoilt reply moves what others are worth, and not what its own candidates are."""
    data = random_data(30, 4)
    looked = looked_at(data, torch.zeros(*data.token_ids.shape, len(NAMES)))
    short = RECIPE.model_copy(update={"epochs": 1})
    found = foreseen_values(data, looked, short, 4, seed=0)
    spoilt = data.final_rewards.clone()
    spoilt[0] += 100
    other = foreseen_values(dataclasses.replace(data, final_rewards=spoilt), looked, short, 4, seed=0)
    assert torch.equal(found[:4], other[:4]) and not torch.equal(found, other)
