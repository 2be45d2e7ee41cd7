"""The checkpoint with its probe: blank before the first round, fitted after each, and finished by the last stage.

Runs in any training process. Imports torch, never vllm.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.fast.run import FastRun
from training.fit.checkpoint import objective_configs
from training.runs.run import CHECKPOINT_FOLDER, VALUES_FOLDER
from training.runs.run_dir import content_hash
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.value_config import (
    FORMAT_VERSION,
    TENSORS_FILE,
    ProbeConfig,
    ProbeOrigin,
    TrainingConfig,
    ValueConfig,
    read_value_config,
)
from valuemodels.models.base import base_hidden_size, load_token_embeddings
from valuemodels.models.checkpoint import read_tensors, save_checkpoint
from valuemodels.models.fingerprint import tokenizer_fingerprint
from valuemodels.models.probe import Probe

_BIAS = "probe.bias"


def export_probe(run: FastRun) -> dict[str, Any]:
    """Write the finished checkpoint."""
    best = run.best
    fitted = best.finished("probe") / VALUES_FOLDER
    best.finished("probe_scales")
    config = read_value_config(fitted)
    assert config.probe is not None, fitted
    probe = config.probe.model_copy(update={"scales": best.stage("probe_scales").summary()["scales"]})
    folder = run.stage("probe_export").folder / CHECKPOINT_FOLDER
    save_checkpoint(folder, config.model_copy(update={"probe": probe}), read_tensors(fitted))
    return {
        "id": config.id,
        "round": best.iteration,
        "megabytes": round((folder / TENSORS_FILE).stat().st_size / 1e6, 1),
    }


def write_blank(run: FastRun, folder: Path) -> None:
    """A checkpoint for a guide that only watches: its probe is what the first fit begins with.

    Raises:
        CheckpointError: the teacher does not fit the base model.
    """
    _check_tokenizer(run)
    torch.manual_seed(run.recipe.seed)
    embeddings = load_token_embeddings(run.base_folder)
    probe = new_probe(run, embeddings)
    unknown = dict.fromkeys(run.rewards, (0.0, 1.0))
    save_checkpoint(folder, fast_config(run, unknown), probe_tensors(run, probe))


def new_probe(run: FastRun, embeddings: Tensor) -> Probe:
    """A probe of the recipe's sizes, with random weights.

    Args:
        embeddings: [vocabulary, embedding] the base's.
    """
    config = probe_config(run)
    width = base_hidden_size(run.base_folder)
    return Probe(width, embeddings.shape[1], len(embeddings), len(run.rewards), config)


def probe_config(
    run: FastRun,
    scales: Mapping[str, float] | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    origin: ProbeOrigin | None = None,
) -> ProbeConfig:
    """What the checkpoint says about its probe; scales are 1 where none are given."""
    fast = run.recipe.fast
    return ProbeConfig(
        source=fast.source,
        hidden=fast.hidden,
        rank=fast.rank,
        scales={name: (scales or {}).get(name, 1.0) for name in run.rewards},
        metrics={name: dict(figures) for name, figures in (metrics or {}).items()},
        origin=origin,
    )


def fast_config(run: FastRun, base: Mapping[str, tuple[float, float]], probe: ProbeConfig | None = None) -> ValueConfig:
    """The teacher's config with a probe; without a teacher, that of a probe alone.

    Args:
        base: objective -> mean and standard deviation of the base's reward; a teacher has its own.
    """
    probe = probe or probe_config(run)
    if run.teacher is not None:
        changes = {"format_version": FORMAT_VERSION, "id": run.checkpoint_id, "probe": probe}
        return run.teacher.config.model_copy(update=changes)
    recipe = run.recipe
    return ValueConfig(
        format_version=FORMAT_VERSION,
        id=run.checkpoint_id,
        base_model=recipe.base,
        tokenizer_fingerprint=tokenizer_fingerprint(run.base_folder),
        objectives=objective_configs(run, base, None, {}),
        probe=probe,
        training=TrainingConfig(
            recipe=recipe.name,
            iteration=run.iteration,
            data_hash=content_hash(run.stage("replies").inputs),
            prompts=run.at(0).stage("prompts").summary()["prompts"],
        ),
    )


def probe_tensors(run: FastRun, probe: Probe) -> dict[str, Tensor]:
    """The teacher's exact tensors, bit for bit, and the probe's, under the checkpoint format's names."""
    tensors = {f"probe.{name}": parameter.detach() for name, parameter in probe.named_parameters()}
    # Most of the probe's bytes, and small numbers: half the precision is plenty.
    tensors[_BIAS] = tensors[_BIAS].to(torch.float16)
    exact = {} if run.teacher is None else read_tensors(run.teacher.folder, part="exact")
    return {**exact, **tensors}


def _check_tokenizer(run: FastRun) -> None:
    if run.teacher is None:
        return
    config = run.teacher.config
    if (found := tokenizer_fingerprint(run.base_folder)) != config.tokenizer_fingerprint:
        raise CheckpointError(
            f"value checkpoint {run.teacher.folder} was trained with the tokenizer of {config.base_model} "
            f"({config.tokenizer_fingerprint[:12]}), but {run.base_folder} has another one ({found[:12]})"
        )
