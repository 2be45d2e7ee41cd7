"""The stage that fits the probe of a round: distilled from labels, where there are some, then fitted to advantages.

Labels say of candidates what none of them has to be sampled for: what a look ahead foresees of them, or a teacher's
exact values. Every round begins again with a blank probe and the replies of all rounds so far: fitted twice to the same
replies, a probe learns them by heart. Runs in its own process, started by `training.rounds`, in float32 on a CPU. Must
not import vllm.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.fast.checkpoint import fast_config, new_probe, probe_config, probe_tensors
from training.fast.critic import batches, cross_fitted_values, foreseen_values
from training.fast.held_out import Held, labelled_advantages, probe_metrics, probe_scales, probe_values
from training.fast.labels import Labels, centred, load_labels
from training.fast.lookahead import Lookahead, join_lookahead, load_lookahead
from training.fast.positions import NOT_CHOSEN, PositionData, join_positions, load_positions
from training.fast.run import FastRun
from training.fast.targets import advantage_loss, advantages_along, distillation_weights, weighted_square
from training.fast_recipe import AdvantageRecipe, DistillRecipe
from training.runs.curves import curves
from training.runs.progress import progress
from training.runs.run import VALUES_FOLDER
from valuemodels.contract.value_config import ProbeOrigin
from valuemodels.models.base import load_token_embeddings
from valuemodels.models.checkpoint import save_checkpoint
from valuemodels.models.probe import Probe, unit_rms
from valuemodels.tilting import advantages_of

_WARMUP = 0.05
Draw = Callable[[str, float, int], None]
"""Called with a curve's name, a value and a step."""


def _draw_nothing(name: str, value: float, step: int) -> None: ...


def fit_probe(run: FastRun) -> dict[str, Any]:
    """Fit the round's probe, measure it on validation prompts, and save it with scales for the next round's tilts."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(run.recipe.seed)
    embeddings = unit_rms(load_token_embeddings(run.base_folder))
    base = run.base_rewards()
    means, stds = (torch.tensor(column, dtype=torch.float64) for column in zip(*base.values(), strict=True))
    rounds = [load_positions(run.at(round_), means, stds) for round_ in range(run.iteration + 1)]
    data, labels = join_positions(rounds), None
    if run.recipe.fast.lookahead is not None:
        looked = [load_lookahead(run.at(round_), part, means, stds) for round_, part in enumerate(rounds)]
        labels = _foreseen(run, data, join_lookahead(looked, [len(part) for part in rounds]))
    elif run.labeller is not None:
        labels = load_labels(run.at(0), data)
    with curves(run, "probe") as writer:
        return _fitted(run, embeddings, data, labels, writer.add_scalar)


def _fitted(run: FastRun, embeddings: Tensor, data: PositionData, labels: Labels | None, draw: Draw) -> dict[str, Any]:
    base = run.base_rewards()
    recipe, seed = run.recipe.fast.advantages, run.recipe.seed
    probe = new_probe(run, embeddings)
    losses = [] if labels is None else distil(probe, embeddings, data, labels, run.recipe.fast.distill, seed, draw)
    values = cross_fitted_values(data, run.recipe.fast.critic, run.recipe.rollout.max_tokens, seed)
    lambda_ = run.recipe.fast.critic.gae_lambda
    advantages = advantages_along(values, data.final_rewards, data.reply, data.place, lambda_)
    held = Held.of(data, advantages, labels)
    before = probe_metrics(probe, embeddings, held, list(base), run)
    train_on_advantages(probe, embeddings, data, advantages, labels, recipe, seed, draw)
    metrics = probe_metrics(probe, embeddings, held, list(base), run)
    scales = probe_scales(probe, embeddings, held, list(base), run)
    origin = ProbeOrigin(
        distilled_from=None if run.labeller is None else run.labeller.config.id,
        advantages=True,
        rounds=run.iteration,
        replies=sum(split == "train" for split in data.splits),
    )
    config = fast_config(run, base, probe_config(run, scales, metrics, origin))
    save_checkpoint(run.stage("probe").folder / VALUES_FOLDER, config, probe_tensors(run, probe))
    gains = {name: [each[name]["validation_gain"] for each in (before, metrics)] for name in metrics}
    return {
        "positions": len(data),
        "replies": len(data.keys),
        "distillation_loss": None if not losses else round(losses[-1], 4),
        "gain": " ".join(f"{name} {first:.2f} -> {now:.2f}" for name, (first, now) in gains.items()),
        "metrics": metrics,
        "scales": scales,
    }


@dataclass(frozen=True, slots=True)
class Fit:
    """An AdamW whose learning rate rises for the first steps, then falls along a cosine."""

    optimizer: torch.optim.AdamW
    schedule: torch.optim.lr_scheduler.LambdaLR

    @classmethod
    def of(cls, probe: Probe, learning_rate: float, weight_decay: float, steps: int) -> "Fit":
        optimizer = torch.optim.AdamW(probe.parameters(), lr=learning_rate, weight_decay=weight_decay)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate((step + 1) / steps))
        return cls(optimizer, rate)

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.schedule.step()


def distil(
    probe: Probe,
    embeddings: Tensor,
    data: PositionData,
    labels: Labels,
    recipe: DistillRecipe,
    seed: int,
    draw: Draw = _draw_nothing,
) -> list[float]:
    """Fit in place to the labels of training prompts.

    Args:
        embeddings: [vocabulary, embedding], all of `unit_rms`.
        draw: what keeps the loss of every step.

    Returns:
        after each epoch, the mean loss in it: the share of the exact values' spread that is not reproduced.
    """
    labels = labels.select(_is_train(data)[labels.position].nonzero().flatten())
    exact, weights = labels.advantages, distillation_weights(labels.weights, recipe.mass_floor)
    spread = _spread(weighted_square(exact, weights))
    steps = math.ceil(len(labels) / recipe.batch_size)
    fit = Fit.of(probe, recipe.learning_rate, recipe.weight_decay, recipe.epochs * steps)
    losses: list[float] = []
    order = batches(torch.arange(len(labels)), recipe.epochs, recipe.batch_size, seed)
    with progress("distil", recipe.epochs * len(labels)) as advance:
        total = 0.0
        for number, index in enumerate(order, start=1):
            part = labels.select(index)
            predicted = labelled_advantages(probe, embeddings, data.select(part.position), part)
            loss = (weighted_square(predicted - exact[index], weights[index]) / spread).mean()
            fit.step(loss)
            total += float(loss.detach()) / steps
            draw("distillation/loss", float(loss.detach()), number)
            advance(len(index))
            if number % steps == 0:
                losses.append(total)
                total = 0.0
                advance(0, f"loss {losses[-1]:.3f}")
    return losses


def train_on_advantages(
    probe: Probe,
    embeddings: Tensor,
    data: PositionData,
    advantages: Tensor,
    labels: Labels | None,
    recipe: AdvantageRecipe,
    seed: int,
    draw: Draw = _draw_nothing,
) -> None:
    """Fit in place to what was sampled on training prompts; exact values keep a small say where there are some.

    Args:
        advantages: [positions, objectives] of the sampled tokens.
        draw: what keeps the loss of every step, a mean over objectives in units of the teacher's spread.
    """
    usable = (_is_train(data) & (data.chosen != NOT_CHOSEN)).nonzero().flatten()
    labelled = _LabelTerm(data, labels, recipe.teacher_weight)
    steps = recipe.epochs * math.ceil(len(usable) / recipe.batch_size)
    fit = Fit.of(probe, recipe.learning_rate, recipe.weight_decay, steps)
    with progress("advantages", recipe.epochs * len(usable)) as advance:
        for number, index in enumerate(batches(usable, recipe.epochs, recipe.batch_size, seed), start=1):
            part = data.select(index)
            values = probe_values(probe, embeddings, part)
            probabilities = part.logprobs.exp()
            loss = advantage_loss(advantages_of(values, part.logprobs), probabilities, part.chosen, advantages[index])
            mean = ((loss + labelled(values, index)) / labelled.spread).mean()
            fit.step(mean)
            draw("advantages/loss", float(mean.detach()), number)
            advance(len(index))


class _LabelTerm:
    """(c / 2) E[(A - V)^2], both centred, on labelled positions, as if all were: of the base's replies, or of any."""

    def __init__(self, data: PositionData, labels: Labels | None, weight: float) -> None:
        objectives = data.final_rewards.shape[1]
        self.spread = torch.ones(objectives)
        self._labels = labels
        if labels is None:
            return
        self.spread = _spread(weighted_square(labels.advantages, labels.weights))
        self._label_of = torch.full((len(data),), -1)
        self._label_of[labels.position] = torch.arange(len(labels))
        is_tilted = (data.weights[data.reply] != 0).any(1)
        stood_for = len(data) if bool(is_tilted[labels.position].any()) else int((~is_tilted).sum())
        self._weight = weight * stood_for / len(labels)

    def __call__(self, values: Tensor, index: Tensor) -> Tensor:
        """[objectives], a mean over the batch.

        Args:
            values: [batch, k, objectives] the probe's; index: [batch] the positions.
        """
        if self._labels is None:
            return torch.zeros_like(self.spread)
        rows = (self._label_of[index] >= 0).nonzero().flatten()
        part = self._labels.select(self._label_of[index[rows]])
        picked = values[rows].gather(1, part.candidates[..., None].expand(-1, -1, values.shape[2]))
        error = centred(picked, part.weights) - part.advantages
        return self._weight / 2 * torch.einsum("pkn,pk->n", error.square(), part.weights) / len(index)


def _foreseen(run: FastRun, data: PositionData, looked: Lookahead) -> Labels:
    """What a look ahead makes of the candidates that it saw."""
    critic, longest = run.recipe.fast.critic, run.recipe.rollout.max_tokens
    values = foreseen_values(data, looked, critic, longest, run.recipe.seed)
    return Labels(looked.position, looked.candidates, looked.weights, values)


def _is_train(data: PositionData) -> Tensor:
    return torch.tensor([split == "train" for split in data.splits])[data.reply]


def _spread(found: Tensor) -> Tensor:
    # Values that never vary leave nothing to explain.
    return found.where(found > 0, 1.0)


def _rate(done: float) -> float:
    """Share of the learning rate: it rises for the first steps, then falls along a cosine."""
    return min(done / _WARMUP, 1.0, 0.5 * (1 + math.cos(math.pi * done)))
