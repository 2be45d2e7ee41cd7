"""A checkpoint with one more objective: the head of its own that was fitted for it, beside those that were there.

Runs in any training process. Imports torch, never vllm.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from training.fit.checkpoint import objective_configs
from training.head.run import HeadRun
from training.runs.run import CHECKPOINT_FOLDER, VALUES_FOLDER
from valuemodels.contract.value_config import (
    FORMAT_VERSION,
    TENSORS_FILE,
    HeadConfig,
    ValueConfig,
    read_value_config,
)
from valuemodels.models.checkpoint import read_tensors, save_checkpoint
from valuemodels.models.trunk import ValueHead

_PREFIX = "head."


def save_with_head(run: HeadRun, head: ValueHead, metrics: Mapping[str, Mapping[str, float]]) -> None:
    """Save the checkpoint with the new head in it, whose scale is 1 until it is calibrated."""
    tensors = read_tensors(run.teacher.folder, part="exact")
    before = {name: tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)}
    added = {f"{_PREFIX}{name}": parameter.detach().cpu() for name, parameter in head.named_parameters()}
    config = _config_with_head(run, metrics)
    save_checkpoint(run.stage("head").folder / VALUES_FOLDER, config, {**tensors, **joined_heads(before, added)})


def joined_heads(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One head that gives what two give, the second's values after the first's: units of their own for each.

    Args:
        first, second: `layers.<n>.weight` and `.bias` of `ValueHead`s of one kind.
    """
    last = max(first, key=lambda name: int(name.split(".")[-2])).rsplit(".", 1)[0]
    joined: dict[str, Tensor] = {}
    for name, own in first.items():
        other = second[name].to(own.dtype)
        layer, kind = name.rsplit(".", 1)
        reads_units = layer == last and len(first) > 2 and kind == "weight"
        joined[name] = _block_diagonal(own, other) if reads_units else torch.cat([own, other])
    return joined


def _block_diagonal(first: Tensor, second: Tensor) -> Tensor:
    joined = first.new_zeros(first.shape[0] + second.shape[0], first.shape[1] + second.shape[1])
    joined[: first.shape[0], : first.shape[1]] = first
    joined[first.shape[0] :, first.shape[1] :] = second
    return joined


def export_with_head(run: HeadRun) -> dict[str, Any]:
    """Write the finished checkpoint: what was there, and the new objective with its scale."""
    fitted = run.finished("head") / VALUES_FOLDER
    run.finished("calibrate")
    scales = run.stage("calibrate").summary()["scales"]
    config = read_value_config(fitted)
    objectives = tuple(
        objective.model_copy(update={"scale": scales.get(objective.name, objective.scale)})
        for objective in config.objectives
    )
    folder = run.stage("slider_export").folder / CHECKPOINT_FOLDER
    save_checkpoint(folder, config.model_copy(update={"objectives": objectives}), read_tensors(fitted))
    return {"id": config.id, "megabytes": round((folder / TENSORS_FILE).stat().st_size / 1e6, 1)}


def _config_with_head(run: HeadRun, metrics: Mapping[str, Mapping[str, float]]) -> ValueConfig:
    before = run.teacher.config
    _, head = before.trunk
    units = None if head.hidden is None else head.hidden + (run.recipe.head.hidden or 0)
    changes = {
        "format_version": FORMAT_VERSION,
        "id": run.checkpoint_id,
        "objectives": (*before.objectives, *objective_configs(run, run.base_rewards(), {}, metrics)),
        "head": HeadConfig(kind=head.kind, hidden=units),
    }
    return before.model_copy(update=changes)
