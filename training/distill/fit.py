"""The stage that fits a probe to exact values: AdamW on recorded positions, the best epoch's weights kept.

Runs in its own process, started by `training.rounds`, in float32 on a CPU. Must not import vllm.
"""

import copy
import math
import os
from typing import Any

import torch
from torch import Tensor

from training.distill.checkpoint import distilled_config, distilled_tensors, probe_config
from training.distill.held_out import HELD_OUT, predict, probe_advantages, probe_metrics
from training.distill.positions import PositionData, load_position_data
from training.distill.run import DistillRun
from training.distill.targets import candidate_weights, weighted_square
from training.recipe import DistillRecipe
from training.runs.progress import progress
from training.runs.run import VALUES_FOLDER
from valuemodels.models.base import load_token_embeddings
from valuemodels.models.checkpoint import save_checkpoint
from valuemodels.models.probe import Probe, unit_rms

_WARMUP = 0.05


def fit_probe(run: DistillRun) -> dict[str, Any]:
    """Fit on the training positions, keep the epoch with the best validation loss, measure on the held-out ones."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(run.recipe.seed)
    data = load_position_data(run)
    embeddings = unit_rms(load_token_embeddings(run.base_folder))
    config = probe_config(run)
    train = data["train"]
    probe = Probe(train.hidden.shape[1], embeddings.shape[1], len(embeddings), train.advantages.shape[2], config)
    losses = train_probe(probe, embeddings, train, data["validation"], run.recipe.distill, run.recipe.seed)
    scales = {objective.name: objective.scale for objective in run.teacher.config.objectives}
    held_out = {split: data[split] for split in HELD_OUT}
    metrics, starts = probe_metrics(probe, embeddings, held_out, scales)
    folder = run.stage("probe").folder / VALUES_FOLDER
    save_checkpoint(folder, distilled_config(run, metrics), distilled_tensors(run, probe))
    return {
        "positions": {split: len(part) for split, part in data.items()},
        "epoch": losses.index(min(losses)) + 1,
        "validation_loss": round(min(losses), 4),
        "metrics": metrics,
        "starts": starts,
    }


def train_probe(
    probe: Probe, embeddings: Tensor, train: PositionData, validation: PositionData, recipe: DistillRecipe, seed: int
) -> list[float]:
    """Fit in place; afterwards `probe` holds the weights with the least validation loss.

    Args:
        embeddings: [vocabulary, embedding], all of `unit_rms`.

    Returns:
        the validation loss after each epoch.
    """
    loss = _Loss(train, recipe.mass_floor)
    steps = recipe.epochs * math.ceil(len(train) / recipe.batch_size)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate((step + 1) / steps))
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    best = copy.deepcopy(probe.state_dict())
    with progress("probe", recipe.epochs * len(train)) as advance:
        for _ in range(recipe.epochs):
            for batch in train.batches(recipe.batch_size, generator):
                optimizer.zero_grad()
                torch.autograd.backward(loss(probe_advantages(probe, embeddings, batch), batch))
                optimizer.step()
                schedule.step()
                advance(len(batch))
            losses.append(float(loss(predict(probe, embeddings, validation), validation)))
            advance(0, f"validation {losses[-1]:.3f}")
            if losses[-1] <= min(losses):
                best = copy.deepcopy(probe.state_dict())
    probe.load_state_dict(best)
    return losses


class _Loss:
    """Share of the exact values' spread that the probe does not reproduce, averaged over objectives: 1 for nothing."""

    def __init__(self, train: PositionData, mass_floor: float) -> None:
        self._mass_floor = mass_floor
        spread = weighted_square(train.advantages, candidate_weights(train.base_logprobs, mass_floor))
        # Values that never vary leave nothing to explain.
        self._spread = spread.where(spread > 0, 1.0)

    def __call__(self, predicted: Tensor, batch: PositionData) -> Tensor:
        weights = candidate_weights(batch.base_logprobs, self._mass_floor)
        return (weighted_square(predicted - batch.advantages, weights) / self._spread).mean()


def _rate(done: float) -> float:
    """Share of the learning rate: it rises for the first steps, then falls along a cosine."""
    return min(done / _WARMUP, 1.0, 0.5 * (1 + math.cos(math.pi * done)))
