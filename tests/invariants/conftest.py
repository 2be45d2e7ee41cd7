"""One engine for all invariants: it starts once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.invariants import triton_on_cpu

if os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1":
    triton_on_cpu.enable()

from tests.conftest import TINY_PROBE, TINY_VOCAB, random_probe, random_tensors, save_tiny_llama
from tests.invariants.engine import IS_V2, open_engine
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.value_config import ValueConfig, read_value_config
from valuemodels.models.checkpoint import load_probe, load_value_model, save_checkpoint
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.fast import FastScorer

Test = TypeVar("Test", bound=Callable[..., None])


ARITHMETIC = [("float32", TINY_VOCAB), ("bfloat16", 4096)]
"""Of which V2 gets the first: its kernels are interpreted, and take seconds with many tokens."""


@pytest.fixture(scope="session", params=ARITHMETIC[:1] if IS_V2 else ARITHMETIC, ids=lambda each: each[0])
def arithmetic(request: pytest.FixtureRequest) -> tuple[str, int]:
    """The engine's dtype and the size of its vocabulary. In bfloat16, and with many tokens, logits tie."""
    dtype, vocabulary = request.param
    return dtype, vocabulary


def only_float32(test: Test) -> Test:
    """For tests that compare answers of batches of different shapes, or states with an engine's of another kind.

    bfloat16 rounds each of them another way, so that the two likeliest tokens change places.
    """
    mark = pytest.mark.parametrize("arithmetic", ARITHMETIC[:1], indirect=True, ids=["float32"])
    return cast(Test, mark(test))


@pytest.fixture(scope="session")
def engine_base(arithmetic: tuple[str, int], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama whose head size vLLM's attention kernels accept; sharp enough that greedy ties are rare."""
    folder = tmp_path_factory.mktemp("engine-base")
    return save_tiny_llama(
        folder,
        hidden_size=128,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.15,
        vocab_size=arithmetic[1],
    )


@pytest.fixture(scope="session")
def engine_checkpoint(
    engine_base: str, tiny_config: Callable[..., ValueConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("engine-values") / "tiny"
    config = tiny_config(probe=TINY_PROBE)
    save_checkpoint(folder, config, {**random_tensors(config, engine_base), **random_probe(config, engine_base)})
    return folder


@pytest.fixture(scope="session")
def uncached(engine_base: str, engine_checkpoint: Path) -> ValueModel:
    """The same value model, without cache and engine."""
    return load_value_model(engine_checkpoint, engine_base, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="session")
def base_model(engine_base: str) -> LlamaForCausalLM:
    """The base model in transformers, for its hidden states."""
    return LlamaForCausalLM.from_pretrained(engine_base).eval()


@pytest.fixture(scope="session")
def fast(engine_base: str, engine_checkpoint: Path) -> FastScorer:
    """The probe, without the engine."""
    config = read_value_config(engine_checkpoint)
    assert config.probe is not None
    return FastScorer(config, config.probe, *load_probe(engine_checkpoint, engine_base, device="cpu"))


@pytest.fixture(scope="session")
def engine(engine_base: str, engine_checkpoint: Path, arithmetic: tuple[str, int]) -> Any:
    return open_engine(engine_base, tiny_guide(engine_base, engine_checkpoint), arithmetic[0])


def tiny_guide(base: str, checkpoint: Path) -> GuideConfig:
    """What the engines here are guided by."""
    return GuideConfig(
        checkpoints=(str(checkpoint),),
        base_model=base,
        value_dtype="float32",
        max_candidates=64,
        default_scoring="exact",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that open an engine of their own come last: vLLM's counters are those of the engine opened last."""
    items.sort(key=lambda item: not {"drafting", "ahead", "ranks"}.isdisjoint(getattr(item, "fixturenames", ())))
