"""The stage that fits one more objective's head. The trunk reads every reply once; the head learns from its states.

Runs in its own process, started by `training.rounds`, in float32. Imports torch, never vllm.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from training.fit.dataset import BatchDataset, Example, load_training_data
from training.fit.held_out import held_out_metrics
from training.head.checkpoint import save_with_head
from training.head.run import HeadRun
from training.recipe import FitRecipe
from training.runs.curves import curves
from training.runs.progress import Advance, progress
from valuemodels.models.checkpoint import load_value_model
from valuemodels.models.trunk import ValueHead, ValueModel

BATCH_POSITIONS = 1024


def fit_head(run: HeadRun) -> dict[str, Any]:
    """Fit, keep the epoch with the best validation loss, measure on the held-out replies, save."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(run.recipe.seed)
    data = load_training_data(run)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_value_model(run.teacher.folder, run.base_folder, dtype=torch.float32, device=device)
    model.head = ValueHead(model.backbone.config.hidden_size, len(data.objectives), run.recipe.head).to(device)
    recipe = run.recipe.fit
    train, validation = data.examples["train"], data.examples["validation"]
    with progress("head", len(train) + len(validation)) as advance:
        learned_from, judged_by = (read_states(model, part, recipe, advance) for part in (train, validation))
    with curves(run, "head") as writer:
        losses = train_head(model.head, learned_from, judged_by, recipe, run.recipe.seed, writer)
    metrics = held_out_metrics(model, data, recipe.batch_tokens)
    save_with_head(run, model.head, metrics)
    return {"replies": len(train), "validation_loss": round(min(losses), 4), "metrics": metrics}


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """Every position that carries a loss.

    Attributes:
        hidden: [positions, hidden] float16, what the head reads; targets: [positions, objectives].
    """

    hidden: Tensor
    targets: Tensor

    def batches(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Parts of so many positions each, in this order."""
        for index in torch.split(order, BATCH_POSITIONS):
            yield self.hidden[index], self.targets[index]


@torch.inference_mode()
def read_states(model: ValueModel, examples: Sequence[Example], recipe: FitRecipe, advance: Advance) -> States:
    """What the trunk makes of every reply."""
    dataset = BatchDataset(examples, recipe.batch_tokens)
    device = next(model.parameters()).device
    hidden, targets = [], []
    for batch in (dataset[index] for index in range(len(dataset))):
        mask = batch["loss_mask"].any(-1)
        output = model.backbone(
            input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device), use_cache=False
        )
        hidden.append(output.last_hidden_state.cpu()[mask].half())
        targets.append(batch["targets"][mask])
        advance(len(mask))
    return States(torch.cat(hidden), torch.cat(targets))


def train_head(
    head: ValueHead,
    train: States,
    validation: States,
    recipe: FitRecipe,
    seed: int,
    writer: SummaryWriter | None = None,
) -> list[float]:
    """Least squares in place; afterwards `head` has the weights of the epoch with the best validation loss.

    Returns:
        the validation loss after each epoch.
    """
    dice = torch.Generator().manual_seed(seed)
    device = next(head.parameters()).device
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    losses: list[float] = []
    best = head.state_dict()
    for epoch in range(recipe.epochs):
        for hidden, targets in train.batches(torch.randperm(len(train.hidden), generator=dice)):
            optimizer.zero_grad()
            torch.autograd.backward((head(hidden.to(device)) - targets.to(device)).square().mean())
            optimizer.step()
        losses.append(_loss(head, validation))
        if writer is not None:
            writer.add_scalar("validation_loss", losses[-1], epoch)
        if losses[-1] == min(losses):
            best = copy.deepcopy(head.state_dict())
    head.load_state_dict(best)
    return losses


@torch.inference_mode()
def _loss(head: ValueHead, states: States) -> float:
    device = next(head.parameters()).device
    order = torch.arange(len(states.hidden))
    errors = [(head(h.to(device)) - t.to(device)).square().sum() for h, t in states.batches(order)]
    return float(torch.stack(errors).sum()) / states.targets.numel()
