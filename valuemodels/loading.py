"""From what a worker is told to a guide that works: loads every value checkpoint in every scoring that is wanted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from valuemodels.checkpoint import load_probe, load_value_model
from valuemodels.contract.guidance import Scoring
from valuemodels.exact import ExactScorer
from valuemodels.fast import FastScorer
from valuemodels.guide import ValueGuide
from valuemodels.guide_config import GuideConfig
from valuemodels.scorer import Scorer
from valuemodels.value_config import objective_owners, offered_scorings, read_value_config


def load_guide(config: GuideConfig, device: torch.device, base_dtype: torch.dtype) -> ValueGuide:
    """Load every checkpoint of a config.

    Raises:
        CheckpointError: a checkpoint is broken or does not fit the base, or two name the same objective.
        GuidanceError: the operator's defaults do not fit the objectives.
    """
    checkpoints = [read_value_config(folder) for folder in config.checkpoints]
    policy = config.policy(tuple(objective_owners(checkpoints)), offered_scorings(checkpoints))
    scorers: dict[Scoring, Sequence[Scorer]] = {}
    if "exact" in policy.scorings:
        scorers["exact"] = _exact_scorers(config, device, base_dtype)
    if "fast" in policy.scorings:
        scorers["fast"] = [_fast_scorer(folder, config, device) for folder in config.checkpoints]
    return ValueGuide(scorers, policy, device, config.max_traces)


def _exact_scorers(config: GuideConfig, device: torch.device, base_dtype: torch.dtype) -> list[ExactScorer]:
    dtype = resolve_dtype(config.value_dtype, device, base_dtype)
    cache_bytes = int(config.cache_gib * 2**30 / len(config.checkpoints))
    models = (
        load_value_model(folder, config.base_model, dtype=dtype, device=device, base_revision=config.base_revision)
        for folder in config.checkpoints
    )
    return [ExactScorer(model, cache_bytes) for model in models]


def _fast_scorer(folder: str | Path, config: GuideConfig, device: torch.device) -> FastScorer:
    checkpoint = read_value_config(folder)
    probe, embeddings = load_probe(folder, config.base_model, device=device, base_revision=config.base_revision)
    assert checkpoint.probe is not None, "load_probe refuses checkpoints without one"
    return FastScorer(checkpoint, checkpoint.probe, probe, embeddings)


def resolve_dtype(
    name: Literal["auto", "float32", "bfloat16", "float16"], device: torch.device, base_dtype: torch.dtype
) -> torch.dtype:
    """The dtype exact value models run in.

    "auto" is the base's own, except on CPUs without bfloat16 arithmetic, where float32 is several times faster.
    """
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type != "cpu":
        return base_dtype
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if native and base_dtype == torch.bfloat16 else torch.float32
