"""What the probe takes from the base model itself: its width and its token embeddings. Imports transformers."""

from typing import cast

from torch import Tensor
from transformers import AutoConfig, AutoModel

from valuemodels.contract.errors import CheckpointError, first_line


def base_hidden_size(base_model: str, revision: str | None = None) -> int:
    """Width of the base model's final hidden states.

    Raises:
        CheckpointError: its config cannot be loaded.
    """
    try:
        config = AutoConfig.from_pretrained(base_model, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the config of {base_model} cannot be loaded: {first_line(error)}") from None
    return int(config.get_text_config().hidden_size)


def load_token_embeddings(base_model: str, revision: str | None = None) -> Tensor:
    """The base model's input embeddings [vocabulary, embedding], in the dtype they are stored in.

    Raises:
        CheckpointError: the base model cannot be loaded.
    """
    try:
        model = AutoModel.from_pretrained(
            base_model, revision=revision, num_hidden_layers=1, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the embeddings of {base_model} cannot be loaded: {first_line(error)}") from None
    return cast(Tensor, model.get_input_embeddings().weight.detach())
