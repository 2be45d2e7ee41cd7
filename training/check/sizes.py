"""How large a recipe's models are, from their configs alone: nothing is loaded, nothing is fetched. Imports torch."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel

from training.errors import RecipeError
from valuemodels.contract.value_config import AdapterConfig, BackboneConfig
from valuemodels.models.trunk import backbone_architecture


@dataclass(frozen=True, slots=True)
class Sizes:
    """Parameters.

    Attributes:
        base: of all of it; what it multiplies by is as much, whether its embeddings are tied or not.
        trunk: of the value trunk's layers, without the `embeddings`, which it only looks up.
        adapter: of what is trained on the trunk.
    """

    base: int
    trunk: int
    embeddings: int
    adapter: int


def sizes_of(base_folder: Path, trunk_folder: Path, backbone: BackboneConfig) -> Sizes:
    """The sizes of a base and a value trunk that lie on this machine.

    Raises:
        CheckpointError: a config cannot be read, or the trunk is none that `load_backbone` takes.
        RecipeError: an adapter's target is none of the trunk's linear layers.
    """
    whole = BackboneConfig(kind="base")
    with torch.device("meta"):
        base = AutoModel.from_config(backbone_architecture(whole, str(base_folder)))
        trunk = AutoModel.from_config(backbone_architecture(backbone, str(trunk_folder)))
    embeddings = _parameters(trunk.get_input_embeddings())
    layers = _parameters(trunk) - embeddings
    return Sizes(_parameters(base), layers, embeddings, _adapter(trunk, backbone.adapter))


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _adapter(trunk: nn.Module, adapter: AdapterConfig | None) -> int:
    if adapter is None:
        return 0
    linear = [(n.rsplit(".", 1)[-1], m) for n, m in trunk.named_modules() if isinstance(m, nn.Linear)]
    names = {name for name, _ in linear}
    if unknown := [target for target in adapter.targets if target not in names]:
        raise RecipeError(f"backbone.adapter.targets: got {unknown[0]!r}, allowed is {', '.join(sorted(names))}")
    widths = sum(m.in_features + m.out_features for name, m in linear if name in adapter.targets)
    return adapter.rank * widths
