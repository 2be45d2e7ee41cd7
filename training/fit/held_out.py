"""How well a fitted value model predicts the rewards of replies to prompts it was not trained on.

Runs in the fit's process. Imports torch, never vllm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.fit.dataset import Batch, BatchDataset, Example, TrainingData
from training.fit.targets import explained_variance
from training.prompts.chat import SplitName

POSITIONS = (0, 16, 32, 48)
EXPLAINED = "explained_variance"
HELD_OUT: tuple[SplitName, ...] = ("validation", "test")


def held_out_metrics(
    model: nn.Module, data: TrainingData, batch_tokens: int, explained: str = EXPLAINED
) -> dict[str, dict[str, float]]:
    """Figures for each objective, on the validation and the test split.

    Args:
        model: takes token ids and mask, as a value model does.
        explained: what the share of the targets' variance that the values explain is called.

    Returns:
        objective -> {"validation_mse", "validation_explained_variance", "validation_explained_variance_at_16", ...}:
        at 0 is after the prompt, at 16 after 16 reply tokens, at end after the last one.
    """
    metrics: dict[str, dict[str, float]] = {name: {} for name in data.objectives}
    for split in HELD_OUT:
        found = predict(model, data.examples[split], batch_tokens)
        where = {f"_at_{position}": found.reply_positions == position for position in POSITIONS}
        where = {"": torch.ones_like(found.is_last), **where, "_at_end": found.is_last}
        for place, noted in enumerate(metrics.values()):
            values, targets, teaches = (part[:, place] for part in (found.values, found.targets, found.teaches))
            for suffix, chosen in where.items():
                rows = chosen & teaches
                if rows.sum() >= 2:  # else no replies of that length, so no variance
                    share = explained_variance(values[rows, None], targets[rows, None])
                    _note(noted, f"{split}_{explained}{suffix}", share)
            _note(noted, f"{split}_mse", (values - targets)[teaches].square().mean())
    return metrics


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Every position that carries a loss.

    Attributes:
        values, targets: [positions, objectives]; teaches: the same, True where the objective learns of it.
        reply_positions: [positions] how many reply tokens stand before and at it; is_last: whether it is the last.
    """

    values: Tensor
    targets: Tensor
    teaches: Tensor
    reply_positions: Tensor
    is_last: Tensor


@torch.no_grad()
def predict(model: nn.Module, examples: Sequence[Example], batch_tokens: int) -> Predictions:
    """Values and targets of every position that carries a loss."""
    model.eval()
    dataset = BatchDataset(examples, batch_tokens)
    parts = [_predict_batch(model, dataset[index]) for index in range(len(dataset))]
    return Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _predict_batch(model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    device = next(model.parameters()).device
    values = model(batch["input_ids"].to(device), batch["attention_mask"].to(device)).cpu()
    teaches = batch["loss_mask"]
    mask = teaches.any(-1)
    positions = mask.long().cumsum(dim=1) - 1
    lengths = batch["attention_mask"].sum(dim=1, keepdim=True)
    is_last = torch.arange(mask.shape[1]) == lengths - 1
    return values[mask], batch["targets"][mask], teaches[mask], positions[mask], is_last[mask]


def _note(metrics: dict[str, float], key: str, figure: Tensor) -> None:
    # A limited run may have so few replies that their rewards do not vary.
    if math.isfinite(float(figure)):
        metrics[key] = round(float(figure), 4)
