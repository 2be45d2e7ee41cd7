"""The value model: a transformers decoder and value heads on its last hidden states.

Training and serving build the same module; serving replaces only its attention (`valuemodels.scoring.attention`).
"""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from valuemodels.contract.errors import CheckpointError, first_line
from valuemodels.contract.value_config import BackboneConfig, HeadConfig, ValueConfig
from valuemodels.models.base import load_part
from valuemodels.models.fingerprint import tokenizer_size

_FEW_TOKENS = 16


class ValueHead(nn.Module):
    """Maps hidden states [..., hidden] to values [..., objectives], in float32 whatever the backbone's dtype."""

    def __init__(self, hidden_size: int, objectives: int, config: HeadConfig) -> None:
        super().__init__()
        if config.kind == "linear":
            self.layers = nn.Sequential(nn.Linear(hidden_size, objectives))
        else:
            units = cast(int, config.hidden)
            self.layers = nn.Sequential(nn.Linear(hidden_size, units), nn.SiLU(), nn.Linear(units, objectives))
        self.float()

    def forward(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.layers(hidden.float()))


class ValueModel(nn.Module):
    """Predicts every objective's final reward, in standard deviations of the base's reward, after each token."""

    def __init__(self, config: ValueConfig, backbone: PreTrainedModel) -> None:
        super().__init__()
        self.config = config
        self.backbone_config, head_config = config.trunk
        self.backbone = backbone
        self.head = ValueHead(backbone.config.hidden_size, len(config.objectives), head_config)

    @classmethod
    def build(
        cls,
        config: ValueConfig,
        base_model: str,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        base_revision: str | None = None,
    ) -> "ValueModel":
        """A model with the backbone's pretrained weights, fresh heads and no adapter.

        Raises:
            CheckpointError: there is no backbone, it cannot be loaded, or it is of a kind we cannot score with.
        """
        backbone = load_backbone(config.trunk[0], base_model, dtype=dtype, base_revision=base_revision)
        return cls(config, backbone).to(device)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Values after every token.

        Args:
            input_ids: [batch, tokens], right-padded.
            attention_mask: [batch, tokens], 1 = a real token.

        Returns:
            [batch, tokens, objectives]
        """
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return cast(Tensor, self.head(output.last_hidden_state))


def check_positions(model: ValueModel, max_positions: int | None) -> None:
    """Refuse a trunk that cannot read sequences as long as the engine admits.

    A trunk of the base's own layers reads whatever the base reads.

    Raises:
        CheckpointError: its positions end before.
    """
    limit = getattr(model.backbone.config, "max_position_embeddings", None)
    if model.backbone_config.kind == "base" or max_positions is None or limit is None or max_positions <= limit:
        return
    raise CheckpointError(
        f"the value model {model.config.id} reads at most {limit} tokens, and the engine admits {max_positions}; "
        f"start with --max-model-len {limit} or less"
    )


def load_backbone(
    config: BackboneConfig, base_model: str, *, dtype: torch.dtype, base_revision: str | None = None
) -> PreTrainedModel:
    """Load the decoder a `BackboneConfig` names: the base's first layers as their own copy, or a model of its own.

    Only safetensors are read and no remote code runs.

    Raises:
        CheckpointError: it cannot be found, has too few layers, is quantised, or uses sliding-window attention.
    """
    source = base_model if config.kind == "base" else cast(str, config.model)
    revision = base_revision if config.kind == "base" else config.revision
    kept = backbone_architecture(config, source, revision)
    options = {"config": kept, "dtype": dtype, "attn_implementation": "sdpa"}
    backbone = load_part(source, revision, f"backbone {source}", **options).eval()
    if config.kind == "model":
        _learn_few_more_tokens(backbone, tokenizer_size(base_model, base_revision))
    return backbone


def _learn_few_more_tokens(backbone: PreTrainedModel, tokens: int) -> None:
    """Embed as 0 the last few tokens that a base has and its trunk has not: one for padding, or marks of a chat.

    Not for more than a few: a trunk of another vocabulary would read other words.
    """
    known = backbone.get_input_embeddings().weight.shape[0]
    if known < tokens <= known + _FEW_TOKENS:
        table: Tensor = backbone.resize_token_embeddings(tokens, mean_resizing=False).weight
        table.data[known:] = 0


def backbone_architecture(config: BackboneConfig, source: str, revision: str | None = None) -> PretrainedConfig:
    """The config of the decoder that a `BackboneConfig` keeps of a source.

    Raises:
        CheckpointError: see `load_backbone`.
    """
    try:
        model_config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"backbone {source} cannot be loaded: {first_line(error)}") from None
    _check_architecture(model_config, config, source)
    if config.layers is not None:
        _keep_layers(model_config, config.layers)
    return model_config


def _check_architecture(model_config: PretrainedConfig, config: BackboneConfig, source: str) -> None:
    available = model_config.num_hidden_layers
    if config.layers is not None and config.layers > available:
        raise CheckpointError(f"the value model takes {config.layers} layers of {source}, which has {available}")
    if config.kind == "base" and getattr(model_config, "quantization_config", None):
        raise CheckpointError(
            f"the value model takes its layers from {source}, whose weights are quantised; serve it with fast scoring "
            "alone (MAVIS_SCORINGS='[\"fast\"]'), or with a trunk of its own"
        )
    layer_types = set(getattr(model_config, "layer_types", None) or ["full_attention"])
    # Qwen's configs name a window and switch it off; Mistral's have no switch.
    if getattr(model_config, "sliding_window", None) and getattr(model_config, "use_sliding_window", True):
        layer_types.add("sliding_attention")
    if layer_types != {"full_attention"}:
        raise CheckpointError(
            f"backbone {source} uses {', '.join(sorted(layer_types))}; only full_attention is supported"
        )


def _keep_layers(model_config: PretrainedConfig, layers: int) -> None:
    model_config.num_hidden_layers = layers
    # transformers checks that this list is as long as the model is deep.
    if getattr(model_config, "layer_types", None):
        model_config.layer_types = model_config.layer_types[:layers]
