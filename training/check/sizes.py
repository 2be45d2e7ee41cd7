"""How large a recipe's models are, from their configs alone: nothing is loaded, nothing is fetched. Imports torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from training.errors import RecipeError
from valuemodels.contract.errors import first_line
from valuemodels.contract.value_config import AdapterConfig, BackboneConfig


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


def sizes_of(base_folder: Path, backbone: BackboneConfig) -> Sizes:
    """The sizes of a base and a value trunk that lie on this machine.

    Raises:
        RecipeError: a config cannot be read, the trunk has fewer layers than asked for, or an adapter's target is none
            of its linear layers.
    """
    base = _blank(str(base_folder), None)
    trunk = _blank(str(base_folder) if backbone.kind == "base" else str(backbone.model), backbone.layers)
    embeddings = _parameters(trunk.get_input_embeddings())
    layers = _parameters(trunk) - embeddings
    return Sizes(_parameters(base), layers, embeddings, _adapter(trunk, backbone.adapter))


def _blank(source: str, layers: int | None) -> Any:
    """A model without weights."""
    try:
        config: Any = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise RecipeError(f"the config of {source} cannot be read: {first_line(error)}") from None
    if layers is not None:
        if layers > config.num_hidden_layers:
            raise RecipeError(f"backbone.layers: got {layers}, allowed is 1 to {config.num_hidden_layers} of {source}")
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    with torch.device("meta"):
        return AutoModel.from_config(config)


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
