"""A small reward model from preference pairs: Bradley-Terry's model, trained by trl, measured on pairs it has not seen.

What comes out is a sequence classifier, for the reward `classifier`. Runs in the process of the command. Must not
import vllm.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, TaskType
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback, set_seed

from training.errors import PairError
from training.fit.stage import ShowProgress, last_whole_checkpoint
from training.pairs.measure import PairFigures, pair_figures
from training.pairs.pairs import Pair, PairRecipe
from training.rewards.classifier import CHAT, Classifier, agree_on_padding
from training.runs.progress import progress
from training.runs.quiet_trl import shared_arguments, trl


def train_reward_model(base: str, pairs: Sequence[Pair], recipe: PairRecipe, work: Path, out: Path) -> PairFigures:
    """Train on all pairs that are not held out, write the model, and measure it on those that are.

    Args:
        base: folder of a language model whose tokenizer has a chat template.
        work: where the Trainer keeps its checkpoints; one that is there already is gone on from.

    Raises:
        PairError: the base cannot be used.
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    set_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if getattr(tokenizer, "chat_template", None) is None:
        raise PairError(f"base {base}: its tokenizer has no chat template, so a chat cannot be told to it")
    trained_on = [pair for pair in pairs if not pair.is_held_out]
    steps = math.ceil(math.ceil(len(trained_on) / recipe.batch_size) * recipe.epochs)
    with progress("reward", steps) as advance:
        trainer = _trainer(base, tokenizer, trained_on, recipe, work)
        trainer.add_callback(ShowProgress(advance))
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(work))
    model: Any = trainer.model
    merged = model.merge_and_unload()
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return measure(out, [pair for pair in pairs if pair.is_held_out], recipe.max_length)


def measure(model: Path, pairs: Sequence[Pair], max_length: int) -> PairFigures:
    """Figures of a model, by the very reward that recipes name."""
    reward = Classifier(str(model), template=CHAT, max_length=max_length)
    chosen, rejected = (
        reward.score_chats([[*pair.messages, *_said(getattr(pair, which))] for pair in pairs])
        for which in ("chosen", "rejected")
    )
    return pair_figures(pairs, chosen, rejected)


def _said(reply: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": reply}]


def _trainer(base: str, tokenizer: Any, pairs: Sequence[Pair], recipe: PairRecipe, work: Path) -> Any:
    layers = {} if recipe.layers is None else {"num_hidden_layers": recipe.layers}
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32, **layers)
    agree_on_padding(tokenizer, model.config)
    rows = [{"prompt": pair.messages, "chosen": _said(pair.chosen), "rejected": _said(pair.rejected)} for pair in pairs]
    trainer = trl().RewardTrainer(
        model=model,
        args=_arguments(recipe, work),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(
            task_type=TaskType.SEQ_CLS, r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules="all-linear"
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(recipe: PairRecipe, work: Path) -> Any:
    return trl().RewardConfig(
        **shared_arguments(str(work), recipe.seed),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        max_length=recipe.max_length,
    )
