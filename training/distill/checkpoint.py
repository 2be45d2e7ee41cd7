"""The distilled checkpoint: the exact one as it is, and a probe; and the last stage, which writes it.

Runs in any training process. Imports torch, never vllm.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from training.distill.run import DistillRun
from training.runs.run import CHECKPOINT_FOLDER, VALUES_FOLDER
from valuemodels.contract.value_config import FORMAT_VERSION, TENSORS_FILE, ProbeConfig, ValueConfig, read_value_config
from valuemodels.models.checkpoint import read_tensors, save_checkpoint
from valuemodels.models.probe import Probe

_BIAS = "probe.bias"


def export_distilled(run: DistillRun) -> dict[str, Any]:
    """Write the finished checkpoint."""
    fitted = run.finished("probe") / VALUES_FOLDER
    run.finished("probe_scales")
    probe = read_value_config(fitted).probe
    assert probe is not None, fitted
    config = distilled_config(run, probe.metrics, run.stage("probe_scales").summary()["scales"])
    folder = run.stage("distilled").folder / CHECKPOINT_FOLDER
    save_checkpoint(folder, config, read_tensors(fitted))
    return {"id": config.id, "megabytes": round((folder / TENSORS_FILE).stat().st_size / 1e6, 1)}


def probe_config(
    run: DistillRun,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    scales: Mapping[str, float] | None = None,
) -> ProbeConfig:
    """What the checkpoint says about its probe.

    Args:
        metrics: objective -> its held-out figures.
        scales: objective -> s_i for fast scoring; 1 where they have not been calibrated yet.
    """
    recipe = run.recipe.distill
    return ProbeConfig(
        source=recipe.source,
        hidden=recipe.hidden,
        rank=recipe.rank,
        scales={name: (scales or {}).get(name, 1.0) for name in run.teacher.config.names},
        metrics={name: dict(figures) for name, figures in (metrics or {}).items()},
    )


def distilled_config(
    run: DistillRun,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    scales: Mapping[str, float] | None = None,
) -> ValueConfig:
    """The teacher's config with a probe; for the arguments see `probe_config`."""
    changes = {"format_version": FORMAT_VERSION, "id": run.checkpoint_id, "probe": probe_config(run, metrics, scales)}
    return run.teacher.config.model_copy(update=changes)


def distilled_tensors(run: DistillRun, probe: Probe) -> dict[str, Tensor]:
    """The teacher's exact tensors, bit for bit, and the probe's, under the checkpoint format's names."""
    tensors = {f"probe.{name}": parameter.detach() for name, parameter in probe.named_parameters()}
    # Most of the probe's bytes, and small numbers: half the precision is plenty.
    tensors[_BIAS] = tensors[_BIAS].to(torch.float16)
    return {**read_tensors(run.teacher.folder, part="exact"), **tensors}
