"""A trunk to score with, and the same without a cache."""

from pathlib import Path

import pytest
import torch

from valuemodels.models.checkpoint import load_value_model
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.exact import ExactScorer


@pytest.fixture(params=[False, True], ids=["ragged", "padded"])
def scorer(tiny_base: str, tiny_checkpoint: Path, request: pytest.FixtureRequest) -> ExactScorer:
    """In as many tokens as there are, as on a CPU, and padded to few shapes, as on a GPU."""
    model = load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu")
    return ExactScorer(model, cache_bytes=1 << 24, pads=request.param)


@pytest.fixture
def ragged(tiny_base: str, tiny_checkpoint: Path) -> ExactScorer:
    """Reads as many tokens as there are."""
    model = load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu")
    return ExactScorer(model, cache_bytes=1 << 24, pads=False)


@pytest.fixture(scope="module")
def uncached(tiny_base: str, tiny_checkpoint: Path) -> ValueModel:
    return load_value_model(tiny_checkpoint, tiny_base, dtype=torch.float32, device="cpu")
