"""From what a worker is told to a guide that works: loads every value checkpoint in every scoring that is wanted."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.guidance import Scoring
from valuemodels.contract.guide_config import DType, GuideConfig
from valuemodels.contract.offers import objective_owners, offered_scorings
from valuemodels.contract.value_config import read_value_config
from valuemodels.guide.between_steps import HaveDone, at_once
from valuemodels.guide.value_guide import ValueGuide
from valuemodels.models.checkpoint import load_probe, load_value_model
from valuemodels.models.trunk import check_positions
from valuemodels.scoring.exact import ExactScorer, PrepareTrunk
from valuemodels.scoring.fast import FastScorer
from valuemodels.scoring.hybrid import HybridScorer
from valuemodels.scoring.kv_blocks import blocks_for
from valuemodels.scoring.scorer import Scorer
from valuemodels.sources.cpu import has_fast_bfloat16
from valuemodels.transfers import finished_on


def load_guide(
    config: GuideConfig,
    device: torch.device,
    base_dtype: torch.dtype,
    max_positions: int | None = None,
    prepare_trunk: PrepareTrunk | None = None,
    between_steps: HaveDone = at_once,
) -> ValueGuide:
    """Load every checkpoint of a config.

    Args:
        max_positions: the longest sequence that the engine admits, in tokens; None leaves that unchecked.
        prepare_trunk: see `ExactScorer`.
        between_steps: has done what may not run beside a step of the engine: a trunk is prepared, and tried.

    Raises:
        CheckpointError: a checkpoint is broken or does not fit the base, or two name the same objective, or a trunk
            cannot read sequences that long.
        GuidanceError: the operator's defaults do not fit the objectives.
    """
    checkpoints = [read_value_config(folder) for folder in config.checkpoints]
    policy = config.policy(tuple(objective_owners(checkpoints)), offered_scorings(checkpoints))
    wanted = set(policy.scorings)
    reads, guesses = wanted & {"exact", "hybrid"}, wanted & {"fast", "hybrid"}
    exact = _exact_scorers(config, device, base_dtype, max_positions, prepare_trunk, between_steps) if reads else []
    fast = [_fast_scorer(folder, config, device) for folder in config.checkpoints] if guesses else []
    hybrid = [HybridScorer(*both, config.hybrid_candidates) for both in zip(fast, exact, strict=False)]
    loaded: dict[Scoring, Sequence[Scorer]] = {"exact": exact, "fast": fast, "hybrid": hybrid}
    return ValueGuide({name: loaded[name] for name in policy.scorings}, policy, device, config.max_traces)


def _exact_scorers(
    config: GuideConfig,
    device: torch.device,
    base_dtype: torch.dtype,
    max_positions: int | None,
    prepare_trunk: PrepareTrunk | None,
    between_steps: HaveDone,
) -> list[ExactScorer]:
    dtype = resolve_dtype(config.value_dtype, device, base_dtype)
    cache_bytes = int(config.cache_gib * 2**30 / len(config.checkpoints))
    with finished_on(device):  # before the engine's thread goes on with them
        models = [
            load_value_model(folder, config.base_model, dtype=dtype, device=device, base_revision=config.base_revision)
            for folder in config.checkpoints
        ]
    for model in models:
        check_positions(model, max_positions)
    scorers = [between_steps(partial(ExactScorer, model, cache_bytes, prepare_trunk)) for model in models]
    for scorer in scorers:
        _check_room(scorer, max_positions, config)
    return scorers


def _check_room(scorer: ExactScorer, max_positions: int | None, config: GuideConfig) -> None:
    """Refuse a cache in which the longest sequence that the engine admits could never be scored.

    Raises:
        CheckpointError: naming what would be enough.
    """
    needed = blocks_for(max_positions or 1) + blocks_for(config.max_candidates)
    if needed > scorer.cache.capacity:
        gib = needed * scorer.cache.shape.bytes_per_block * len(config.checkpoints) / 2**30
        raise CheckpointError(
            f"a value cache of {config.cache_gib:g} GiB does not hold one sequence of {max_positions} tokens for "
            f"{scorer.checkpoint_id}; start with --value-cache-gib {gib:.3g} or more, or with a smaller --max-model-len"
        )


def _fast_scorer(folder: str | Path, config: GuideConfig, device: torch.device) -> FastScorer:
    checkpoint = read_value_config(folder)
    probe, embeddings = load_probe(folder, config.base_model, device=device, base_revision=config.base_revision)
    assert checkpoint.probe is not None, "load_probe refuses checkpoints without one"
    return FastScorer(checkpoint, checkpoint.probe, probe, embeddings)


def resolve_dtype(name: DType, device: torch.device, base_dtype: torch.dtype) -> torch.dtype:
    """The dtype exact value models run in.

    "auto" is the base's own; on a CPU it is float32, except where the base is in bfloat16 and that is fast.
    """
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type != "cpu":
        return base_dtype
    return torch.bfloat16 if base_dtype == torch.bfloat16 and has_fast_bfloat16() else torch.float32
