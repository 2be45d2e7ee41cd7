"""The stage that fits the value model: LoRA and heads regressed on the final reward at every reply position.

Runs in its own process, started by `training.rounds`, in float32 on a CPU. Must not import vllm. An interrupted fit
goes on from the Trainer's last checkpoint.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from training.errors import RecipeError
from training.fit.checkpoint import load_tensors, value_config, value_tensors
from training.fit.dataset import Batch, BatchDataset, TrainingData, load_training_data
from training.fit.held_out import EXPLAINED, held_out_metrics
from training.fit.targets import masked_mse
from training.recipe import FitRecipe
from training.runs.curves import curves
from training.runs.progress import progress
from training.runs.ranks import is_first, threads, world_size
from training.runs.run import VALUES_FOLDER, Run
from valuemodels.contract.value_config import AdapterConfig
from valuemodels.models.checkpoint import read_tensors, save_checkpoint
from valuemodels.models.trunk import ValueModel

_TRAINER_FOLDER = "trainer"
_EVALUATIONS_PER_EPOCH = 2


def fit_values(run: Run) -> dict[str, Any]:
    """Fit on the training replies, keep the weights with the best validation loss, measure on the held-out replies."""
    return fit_to(run, load_training_data(run))


def fit_to(run: Run, data: TrainingData, explained: str = EXPLAINED) -> dict[str, Any]:
    """The same, whatever the targets are; `explained` names the figures, see `held_out_metrics`."""
    if run.recipe.fit.sharded and not can_shard():
        raise RecipeError("fit.sharded: got true on a machine without GPUs, allowed there is false")
    torch.set_num_threads(threads())
    folder = run.stage(run.values_stage).folder
    set_seed(run.recipe.seed)
    model = trainable_model(ValueModel.build(value_config(run), run.base_folder), run.recipe.backbone.adapter)
    if run.iteration:
        load_tensors(model, read_tensors(run.at(run.iteration - 1).best.fitted().folder))
    with curves(run, run.values_stage) as writer:
        trained = train_values(model, data, fit_recipe(run), run.recipe.seed, folder / _TRAINER_FOLDER, writer)
    metrics = held_out_metrics(trained, data, run.recipe.fit.batch_tokens, explained)
    tensors = {name: whole(tensor) for name, tensor in value_tensors(model).items()}
    if is_first():
        save_checkpoint(folder / VALUES_FOLDER, value_config(run, metrics=metrics), tensors)
    return {"replies": len(data.examples["train"]), "metrics": metrics}


def can_shard() -> bool:
    """Whether accelerate shards here: elsewhere each process would have the whole trunk, and nothing would say so."""
    return torch.cuda.is_available()


def whole(tensor: Tensor) -> Tensor:
    """A tensor as one, where FSDP has spread it over the processes; all of them have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fit_recipe(run: Run) -> FitRecipe:
    """How this round's values are fitted; later rounds begin with fitted values, so nothing warms up."""
    recipe = run.recipe.fit
    if run.iteration == 0:
        return recipe
    changes = run.recipe.rounds.model_dump(include={"epochs", "learning_rate"}, exclude_none=True)
    return recipe.model_copy(update={**changes, "warmup": 0.0})


def trainable_model(model: ValueModel, adapter: AdapterConfig | None) -> ValueModel:
    """Freeze the backbone and put LoRA on it; the heads stay trainable."""
    model.backbone.requires_grad_(False)
    if adapter is not None:
        lora = LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=list(adapter.targets))
        model.backbone = get_peft_model(model.backbone, lora)
    return model


def train_values(
    model: ValueModel,
    data: TrainingData,
    recipe: FitRecipe,
    seed: int,
    folder: Path,
    writer: SummaryWriter | None = None,
) -> nn.Module:
    """Train in place; afterwards `model` holds the weights with the best validation loss.

    Args:
        folder: where the Trainer keeps its checkpoints; one that is there already is gone on from.
        writer: of its curves.

    Returns:
        `model` as it can be called now: where it is spread over processes, through what gathers its parts alone.
    """
    trainee = _Trainee(model)
    train = BatchDataset(data.examples["train"], recipe.batch_tokens, seed)
    validation = BatchDataset(data.examples["validation"], recipe.batch_tokens)
    steps = math.ceil(len(train) / world_size())
    with progress("fit", recipe.epochs * steps) as advance:
        trainer = _ValueTrainer(
            model=trainee,
            args=_arguments(recipe, seed, folder, steps),
            train_dataset=train,
            eval_dataset=validation,
            data_collator=_only_batch,
            callbacks=[ShowProgress(advance), *([] if writer is None else [TensorBoardCallback(writer)])],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder))
    return trainee.eval()


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest of the Trainer's checkpoints that was written to its end; those that were not are removed.

    The Trainer writes its own state last, so a checkpoint without it was interrupted, and would stop every start.
    """
    while folder.is_dir() and (newest := get_last_checkpoint(str(folder))) is not None:
        try:
            json.loads((Path(newest) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(newest)
        else:
            return str(newest)
    return None


class _Trainee(nn.Module):
    """Hides a value model's frozen `config` from the Trainer, which would write into it."""

    def __init__(self, model: ValueModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        values: Tensor = self.model(input_ids, attention_mask)
        return values


class _ValueTrainer(Trainer):
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        values = model(inputs["input_ids"], inputs["attention_mask"])
        loss = masked_mse(values, inputs["targets"], inputs["loss_mask"])
        return (loss, {"values": values}) if return_outputs else loss


class ShowProgress(TrainerCallback):
    """Shows where a Trainer stands, and its latest losses."""

    def __init__(self, advance: Any) -> None:
        self._advance = advance
        self._shown = 0
        self._note = ""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        for key, label in (("loss", "loss"), ("eval_loss", "validation")):
            if logs and key in logs:
                self._note = f"{label} {float(logs[key]):.3f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Counted from the state, so that a resumed fit shows where it stands.
        self._advance(state.global_step - self._shown, self._note)
        self._shown = state.global_step


def _arguments(recipe: FitRecipe, seed: int, folder: Path, steps_per_epoch: int) -> TrainingArguments:
    every = max(1, steps_per_epoch // _EVALUATIONS_PER_EPOCH)
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        # One item of the dataset is a whole batch.
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=round(recipe.warmup * recipe.epochs * steps_per_epoch),
        weight_decay=recipe.weight_decay,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        prediction_loss_only=True,
        logging_steps=10,
        label_names=["targets"],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_backend=None if torch.cuda.is_available() or world_size() == 1 else "gloo",
        fsdp=recipe.sharded,
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        log_level="error",
    )


def _only_batch(items: list[Batch]) -> Batch:
    return items[0]
