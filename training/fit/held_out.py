"""How well a fitted value model predicts the rewards of replies to prompts it was not trained on.

Runs in the fit's process. Imports torch, never vllm.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from training.fit.dataset import Batch, BatchDataset, Example, TrainingData
from training.fit.targets import explained_variance
from training.prompts.chat import SplitName
from valuemodels.models.trunk import ValueModel

POSITIONS = (0, 16, 32, 48)
HELD_OUT: tuple[SplitName, ...] = ("validation", "test")


def held_out_metrics(model: ValueModel, data: TrainingData, batch_tokens: int) -> dict[str, dict[str, float]]:
    """Figures for each objective, on the validation and the test split.

    Returns:
        objective -> {"validation_mse", "validation_explained_variance", "validation_explained_variance_at_16", ...}:
        at 0 is after the prompt, at 16 after 16 reply tokens, at end after the last one.
    """
    metrics: dict[str, dict[str, float]] = {name: {} for name in data.objectives}
    for split in HELD_OUT:
        values, targets, reply_positions, is_last = predict(model, data.examples[split], batch_tokens)
        where = {f"_at_{position}": reply_positions == position for position in POSITIONS}
        where = {"": torch.ones_like(is_last), **where, "_at_end": is_last}
        for suffix, chosen in where.items():
            if chosen.sum() < 2:
                continue  # no replies of that length, so no variance
            explained = explained_variance(values[chosen], targets[chosen])
            _note(metrics, f"{split}_explained_variance{suffix}", explained)
        _note(metrics, f"{split}_mse", (values - targets).square().mean(dim=0))
    return metrics


@torch.no_grad()
def predict(model: ValueModel, examples: Sequence[Example], batch_tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values and targets of every position that carries a loss.

    Returns:
        values and targets [positions, objectives]; how many reply tokens stand before and at the position
        [positions]; whether it is the reply's last [positions].
    """
    model.eval()
    dataset = BatchDataset(examples, batch_tokens)
    parts = [_predict_batch(model, dataset[index]) for index in range(len(dataset))]
    values, targets, positions, is_last = (torch.cat(column) for column in zip(*parts, strict=True))
    return values, targets, positions, is_last


def _predict_batch(model: ValueModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    device = next(model.parameters()).device
    values = model(batch["input_ids"].to(device), batch["attention_mask"].to(device)).cpu()
    mask = batch["loss_mask"]
    positions = mask.long().cumsum(dim=1) - 1
    lengths = batch["attention_mask"].sum(dim=1, keepdim=True)
    is_last = torch.arange(mask.shape[1]) == lengths - 1
    return values[mask], batch["targets"][mask], positions[mask], is_last[mask]


def _note(metrics: dict[str, dict[str, float]], key: str, figures: Tensor) -> None:
    for name, figure in zip(metrics, figures.tolist(), strict=True):
        # A limited run may have so few replies that their rewards do not vary.
        if math.isfinite(figure):
            metrics[name][key] = round(figure, 4)
