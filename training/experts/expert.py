"""One expert: a LoRA adapter on the base that direct preference optimisation (Rafailov et al., 2023) fits, by trl.

The replies' own tokens are used, as they were sampled: a reply that was cut off does not learn to end there.

Runs in the process of the command. Must not import vllm.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, TaskType
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, set_seed

from training.experts.preferences import Preference
from training.fit.stage import ShowProgress, last_whole_checkpoint
from training.runs.progress import progress
from training.runs.quiet_trl import shared_arguments, trl
from valuemodels.sources.cpu import has_fast_bfloat16

READ_AT_ONCE = 4
"""Preferences, of a step's: memory goes by their logits over the whole vocabulary, of both replies and both models."""


@dataclass(frozen=True, slots=True)
class ExpertRecipe:
    """How an expert is fitted.

    Attributes:
        pairs: preferences a prompt; beta: of DPO, the larger the nearer to the base.
        rank: of LoRA on all projections; its alpha is twice that.
    """

    pairs: int = 4
    beta: float = 0.1
    rank: int = 32
    epochs: float = 1.0
    learning_rate: float = 1e-4
    batch_size: int = 16
    seed: int = 0


def train_expert(
    base: str, rows: Sequence[Preference], recipe: ExpertRecipe, work: Path, out: Path
) -> dict[str, float]:
    """Fit an adapter and write it.

    Args:
        base: folder of the base; work: where the Trainer keeps its checkpoints; one that is there is gone on from.

    Returns:
        `steps`, and of the last of them `accuracy`: how often the chosen reply is the one that gained more.
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    set_seed(recipe.seed)
    steps = math.ceil(math.ceil(len(rows) / recipe.batch_size) * recipe.epochs)
    with progress("expert", steps) as advance:
        trainer = _trainer(base, rows, recipe, work)
        trainer.add_callback(ShowProgress(advance))
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(work))
    trainer.model.save_pretrained(str(out))
    logged = [entry for entry in trainer.state.log_history if "rewards/accuracies" in entry]
    accuracy = float(logged[-1]["rewards/accuracies"]) if logged else math.nan
    return {"steps": float(trainer.state.global_step), "accuracy": accuracy}


def _trainer(base: str, rows: Sequence[Preference], recipe: ExpertRecipe, work: Path) -> Any:
    package = trl()

    class OfTokens(package.DPOTrainer):  # type: ignore[name-defined, misc]
        """trl's, of replies that are tokens already."""

        def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
            return dataset

    columns = [{"prompt_ids": row.prompt, "chosen_ids": row.chosen, "rejected_ids": row.rejected} for row in rows]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules="all-linear"
    )
    trainer = OfTokens(
        model=model,
        args=_arguments(recipe, work),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(columns),
        peft_config=lora,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(recipe: ExpertRecipe, work: Path) -> Any:
    together = math.gcd(recipe.batch_size, READ_AT_ONCE)
    return trl().DPOConfig(
        **(shared_arguments(str(work), recipe.seed) | {"bf16": torch.cuda.is_available() or has_fast_bfloat16()}),
        beta=recipe.beta,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=together,
        gradient_accumulation_steps=recipe.batch_size // together,
        learning_rate=recipe.learning_rate,
        max_length=None,
    )
