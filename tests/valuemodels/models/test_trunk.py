"""A trunk that is a model of its own: a few tokens of the base that it does not know, and no more than a few."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaModel

from valuemodels.contract.value_config import BackboneConfig, ValueConfig
from valuemodels.models.fingerprint import tokenizer_size
from valuemodels.models.trunk import ValueModel


@pytest.fixture
def base(tiny_base: str, tmp_path: Path) -> str:
    """The tiny base's tokenizer with a token more, as for padding."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def trunk(folder: Path, vocabulary: int) -> BackboneConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaModel(LlamaConfig(vocab_size=vocabulary, **sizes)).save_pretrained(folder)
    return BackboneConfig(kind="model", model=str(folder))


def test_the_last_few_tokens_of_a_base_are_embedded_as_nothing(
    base: str, tiny_config: Callable[..., ValueConfig], tmp_path: Path
) -> None:
    needed = tokenizer_size(base)
    config = tiny_config(backbone=trunk(tmp_path / "trunk", needed - 1))
    models = [ValueModel.build(config, base) for _ in range(2)]
    for model in models:
        table = model.backbone.get_input_embeddings().weight
        assert table.shape[0] == needed and not table[-1].any() and table[-2].any()
    models[1].load_state_dict(models[0].state_dict())
    tokens = torch.tensor([[1, needed - 1, 2]])
    with torch.inference_mode():
        assert torch.equal(models[0](tokens), models[1](tokens))


@pytest.mark.parametrize("missing", [0, 17])
def test_a_trunk_that_knows_all_or_far_too_few_is_left_as_it_is(
    base: str, tiny_config: Callable[..., ValueConfig], tmp_path: Path, missing: int
) -> None:
    known = tokenizer_size(base) - missing
    model = ValueModel.build(tiny_config(backbone=trunk(tmp_path / "trunk", known)), base)
    assert model.backbone.get_input_embeddings().weight.shape[0] == known
