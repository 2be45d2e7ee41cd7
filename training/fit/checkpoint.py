"""A run's value model in the checkpoint format: its config and its tensors.

Runs in any training process. Imports torch, never vllm.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from training.runs.run import CHECKPOINT_FOLDER, VALUES_FOLDER, Run
from valuemodels.contract.value_config import (
    FORMAT_VERSION,
    TENSORS_FILE,
    ObjectiveConfig,
    TrainingConfig,
    ValueConfig,
    read_value_config,
)
from valuemodels.models.checkpoint import peft_adapter_tensors, read_tensors, save_checkpoint
from valuemodels.models.fingerprint import tokenizer_fingerprint
from valuemodels.models.trunk import ValueModel


def value_config(
    run: Run,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    scales: Mapping[str, float] | None = None,
) -> ValueConfig:
    """The config of a run's checkpoint.

    Args:
        metrics: objective -> its held-out figures.
        scales: objective -> s_i; 1 where they have not been calibrated yet.
    """
    recipe = run.recipe
    return ValueConfig(
        format_version=FORMAT_VERSION,
        id=run.checkpoint_id,
        base_model=recipe.base,
        tokenizer_fingerprint=tokenizer_fingerprint(run.base_folder),
        objectives=objective_configs(run, run.base_rewards(), scales or {}, metrics or {}),
        backbone=recipe.backbone,
        head=recipe.head,
        training=_training(run),
    )


def objective_configs(
    run: Run,
    base: Mapping[str, tuple[float, float]],
    scales: Mapping[str, float] | None,
    metrics: Mapping[str, Mapping[str, float]],
) -> tuple[ObjectiveConfig, ...]:
    """What a checkpoint says of the run's objectives.

    Args:
        base: objective -> mean and standard deviation of the base's reward.
        scales: objective -> s_i of exact scoring; 1 where there is none yet, None where there is no trunk.
        metrics: objective -> its held-out figures.
    """
    clips = run.clips()
    return tuple(
        ObjectiveConfig(
            name=objective.name,
            description=objective.description,
            reward=objective.reward_id,
            mean=base[objective.name][0],
            std=base[objective.name][1],
            clip=clips[objective.name],
            scale=None if scales is None else scales.get(objective.name, 1.0),
            metrics=dict(metrics.get(objective.name, {})),
        )
        for objective in run.recipe.objectives
    )


def _training(run: Run) -> TrainingConfig:
    return TrainingConfig(
        recipe=run.recipe.name,
        iteration=run.iteration,
        data_hash=run.data_hash(),
        prompts=run.at(0).stage("prompts").summary()["prompts"],
    )


def value_tensors(model: ValueModel) -> dict[str, Tensor]:
    """What training changed, under the checkpoint format's names."""
    head = {f"head.{name}": parameter.detach() for name, parameter in model.head.named_parameters()}
    return {**head, **peft_adapter_tensors(model.backbone)}


@torch.no_grad()
def load_tensors(model: ValueModel, tensors: Mapping[str, Tensor]) -> None:
    """Take over what an earlier fit of the same sizes changed: the inverse of `value_tensors`, in place."""
    for name, own in value_tensors(model).items():
        own.copy_(tensors[name])


def export_checkpoint(run: Run) -> dict[str, Any]:
    """Write the finished checkpoint: the best round's values."""
    best = run.best
    fitted = best.finished(run.values_stage) / VALUES_FOLDER
    best.finished("calibrate")
    metrics = {objective.name: objective.metrics for objective in read_value_config(fitted).objectives}
    calibrated = best.stage("calibrate").summary()
    folder = run.stage("export").folder / CHECKPOINT_FOLDER
    save_checkpoint(folder, value_config(best, metrics, calibrated["scales"]), read_tensors(fitted))
    return {"round": best.iteration, "megabytes": round((folder / TENSORS_FILE).stat().st_size / 1e6, 1)}
