"""The critic: what a reply is worth at each of its positions. Only training needs it; it is not part of a checkpoint.

It sees the base's state, the weights that tilt the reply, and the reward of the text so far. That last one is what
makes it good: most of a lexical reward is written already when the reply is half done. Imports torch, never vllm.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from training.fast.lookahead import Lookahead
from training.fast.positions import PositionData
from training.fast_recipe import CriticRecipe

FOLDS = 2
_BATCH = 8192


class Critic(nn.Module):
    """An MLP on [LayerNorm(h), phi, phi t / T, t / T, w]: phi the prefix's reward, t of T tokens, w the weights."""

    def __init__(self, hidden_size: int, objectives: int, units: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        width = hidden_size + 3 * objectives + 1
        self.layers = nn.Sequential(
            nn.Linear(width, units), nn.SiLU(), nn.Linear(units, units), nn.SiLU(), nn.Linear(units, objectives)
        )

    def forward(self, data: PositionData, max_tokens: int) -> Tensor:
        """[positions, objectives] predicted final rewards, standardised."""
        share = (data.place.float() / max_tokens)[:, None]
        phi, weights = data.prefix_rewards, data.weights[data.reply]
        features = [self.norm(data.hidden.float()), phi, phi * share, share, weights]
        found: Tensor = self.layers(torch.cat(features, dim=1))
        return found


def fold_of(data: PositionData) -> Tensor:
    """[positions] the fold of each position: all replies to a prompt are in one. -1 for prompts not trained on."""
    prompts = {key[0]: None for key, split in zip(data.keys, data.splits, strict=True) if split == "train"}
    fold = {prompt_id: number % FOLDS for number, prompt_id in enumerate(sorted(prompts))}
    return torch.tensor([fold.get(prompt_id, -1) for prompt_id, _ in data.keys])[data.reply]


def cross_fitted_values(data: PositionData, recipe: CriticRecipe, max_tokens: int, seed: int) -> Tensor:
    """What each position is worth, by a critic that has not seen the position's prompt.

    Returns:
        [positions, objectives]; where a prompt is not trained on, the mean over all critics.
    """
    folds = fold_of(data)
    values = torch.zeros_like(data.prefix_rewards)
    for fold in range(FOLDS):
        trained_on = ((folds >= 0) & (folds != fold)).nonzero().flatten()
        critic = fit_critic(data, trained_on, recipe, max_tokens, seed + fold)
        with torch.inference_mode():
            for index in torch.split((folds == fold).nonzero().flatten(), _BATCH):
                values[index] = critic(data.select(index), max_tokens)
            for index in torch.split((folds < 0).nonzero().flatten(), _BATCH):
                values[index] += critic(data.select(index), max_tokens) / FOLDS
    return values


def foreseen_values(data: PositionData, looked: Lookahead, recipe: CriticRecipe, max_tokens: int, seed: int) -> Tensor:
    """What candidates are worth, by a critic that sees the state before them and the rewards of the text with them.

    It is fitted to what was sampled, whose rewards with the token are those of the next prefix:
    E[final | h_t, phi_{t+1}]; and asked what the other candidates' own would lead to. Cross-fitted as the critic is.

    Returns:
        [labels, m, objectives]; where a candidate ends the reply, the rewards themselves.
    """
    folds, after = fold_of(data), _one_token_on(data)
    found = looked.rewards.clone()
    for fold in range(FOLDS):
        trained_on = ((folds >= 0) & (folds != fold)).nonzero().flatten()
        critic = fit_critic(after, trained_on, recipe, max_tokens, seed + fold)
        judged = (folds[looked.position] == fold).nonzero().flatten()
        with torch.inference_mode():
            for index in torch.split(judged, _BATCH):
                state = after.select(looked.position[index])
                for place in range(found.shape[1]):
                    with_it = replace(state, prefix_rewards=looked.rewards[index, place])
                    found[index, place] = critic(with_it, max_tokens)
    return torch.where(looked.ends[..., None], looked.rewards, found)


def _one_token_on(data: PositionData) -> PositionData:
    """The positions with their states, and with the rewards of the text that their token has been added to."""
    is_last = torch.ones(len(data), dtype=torch.bool)
    is_last[:-1] = data.reply[1:] != data.reply[:-1]
    rewards = data.prefix_rewards.roll(-1, 0)
    rewards[is_last] = data.final_rewards[data.reply[is_last]]
    return replace(data, prefix_rewards=rewards, place=data.place + 1)


def fit_critic(data: PositionData, index: Tensor, recipe: CriticRecipe, max_tokens: int, seed: int) -> Critic:
    """Least squares against the final rewards at some of the positions."""
    torch.manual_seed(seed)
    critic = Critic(data.hidden.shape[1], data.final_rewards.shape[1], recipe.hidden)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=recipe.learning_rate)
    for batch in batches(index, recipe.epochs, recipe.batch_size, seed):
        part = data.select(batch)
        optimizer.zero_grad()
        error = critic(part, max_tokens) - data.final_rewards[part.reply]
        torch.autograd.backward(error.square().mean())
        optimizer.step()
    return critic.eval()


def batches(index: Tensor, epochs: int, size: int, seed: int) -> Iterator[Tensor]:
    """Parts of an index, each epoch all of it once in another random order."""
    dice = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.split(index[torch.randperm(len(index), generator=dice)], size)
