"""What the probe takes from the base model itself: its width and its token embeddings. Imports transformers."""

from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

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
    """The base model's input embeddings [vocabulary, embedding], in float32.

    Raises:
        CheckpointError: the base model cannot be loaded.
    """
    # For any dtype but torch's default transformers changes that default meanwhile, for every thread of the process: a
    # worker loads while its engine steps.
    options = {"num_hidden_layers": 1, "dtype": torch.float32}
    model = load_part(base_model, revision, f"the embeddings of {base_model}", **options)
    return cast(Tensor, model.get_input_embeddings().weight.detach())


def load_part(source: str, revision: str | None, what: str, **options: Any) -> PreTrainedModel:
    """A decoder without the layers that `options` leave out on purpose, which transformers would list as forgotten.

    Only safetensors are read and no remote code runs.

    Args:
        what: names it in the error.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model = AutoModel.from_pretrained(
            source, revision=revision, use_safetensors=True, trust_remote_code=False, **options
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{what} cannot be loaded: {first_line(error)}") from None
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
    return cast(PreTrainedModel, model)
