"""What every test may use: tiny models made on the spot, and paths."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from valuemodels.contract.value_config import (
    AdapterConfig,
    BackboneConfig,
    HeadConfig,
    ObjectiveConfig,
    ProbeConfig,
    TrainingConfig,
    ValueConfig,
)
from valuemodels.models.base import base_hidden_size, load_token_embeddings
from valuemodels.models.checkpoint import save_checkpoint
from valuemodels.models.fingerprint import tokenizer_fingerprint
from valuemodels.models.probe import Probe
from valuemodels.models.trunk import ValueModel

TINY_VOCAB = 64
TINY_PROBE = ProbeConfig(source="base", hidden=24, rank=8, scales={"warmth": 2.0, "brevity": 4.0})
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random four-layer Llama with grouped-query attention, and a tokenizer of single characters."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-base"))


@pytest.fixture(scope="session")
def tiny_config(tiny_base: str) -> Callable[..., ValueConfig]:
    """Makes checkpoint configs for `tiny_base`; keywords replace fields."""

    def make(**changes: object) -> ValueConfig:
        fields: dict[str, object] = {
            "format_version": 2,
            "id": "tiny",
            "base_model": "tiny-base",
            "tokenizer_fingerprint": tokenizer_fingerprint(tiny_base),
            "objectives": tuple(
                ObjectiveConfig(name=name, description=f"{name} for tests", reward=name, mean=0.5, std=2.0, scale=scale)
                for name, scale in (("warmth", 3.0), ("brevity", 5.0))
            ),
            "backbone": BackboneConfig(
                kind="base", layers=2, adapter=AdapterConfig(rank=4, alpha=8.0, targets=TARGETS)
            ),
            "head": HeadConfig(kind="mlp", hidden=16),
            "training": TrainingConfig(recipe="tests", iteration=0, data_hash="none"),
        }
        return ValueConfig.model_validate({**fields, **changes})

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tiny_base: str, tiny_config: Callable[..., ValueConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint of random heads and a random adapter on `tiny_base`, for tests of shapes and equalities."""
    folder = tmp_path_factory.mktemp("values") / "tiny"
    save_checkpoint(folder, tiny_config(), random_tensors(tiny_config(), tiny_base))
    return folder


@pytest.fixture(scope="session")
def tiny_probed_checkpoint(
    tiny_base: str, tiny_config: Callable[..., ValueConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`tiny_checkpoint` with a random probe, so that it offers fast scoring, too."""
    folder = tmp_path_factory.mktemp("values") / "tiny-probed"
    config = tiny_config(id="tiny-probed", probe=TINY_PROBE)
    save_checkpoint(folder, config, {**random_tensors(config, tiny_base), **random_probe(config, tiny_base)})
    return folder


def save_tiny_llama(folder: Path, **changes: object) -> str:
    """Save a random Llama with a tokenizer; keywords replace config fields. Returns the folder."""
    torch.manual_seed(0)
    fields: dict[str, object] = {
        "vocab_size": TINY_VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "eos_token_id": 1,
    }
    LlamaForCausalLM(LlamaConfig(**{**fields, **changes})).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return str(folder)


def random_tensors(config: ValueConfig, base: str, seed: int = 1) -> dict[str, torch.Tensor]:
    """Tensors of the right names and shapes for a config, random enough that values differ visibly."""
    torch.manual_seed(seed)
    model = ValueModel.build(config, base)
    tensors = {f"head.{name}": parameter.detach() * 3 for name, parameter in model.head.named_parameters()}
    adapter = config.trunk[0].adapter
    if adapter is not None:
        for name, module in model.backbone.named_modules():
            if isinstance(module, torch.nn.Linear) and name.rsplit(".", 1)[-1] in adapter.targets:
                tensors[f"adapter.{name}.A"] = torch.randn(adapter.rank, module.in_features) * 0.1
                tensors[f"adapter.{name}.B"] = torch.randn(module.out_features, adapter.rank) * 0.1
    return tensors


def random_probe(config: ValueConfig, base: str, seed: int = 2) -> dict[str, torch.Tensor]:
    """Probe tensors of the right names and shapes for a config."""
    assert config.probe is not None
    torch.manual_seed(seed)
    embeddings = load_token_embeddings(base)
    probe = Probe(base_hidden_size(base), embeddings.shape[1], embeddings.shape[0], len(config.names), config.probe)
    tensors = {f"probe.{name}": parameter.detach() for name, parameter in probe.named_parameters()}
    tensors["probe.bias"] = torch.randn_like(tensors["probe.bias"]) * 0.1
    return tensors


def character_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,!?0123"
    vocabulary = {"<unk>": 0, "</s>": 1} | {c: i + 2 for i, c in enumerate(characters[: TINY_VOCAB - 2])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
