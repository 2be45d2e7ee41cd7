"""Tokenizers: a hash over what one holds and does, by which two are told apart, and its size. Imports transformers."""

import hashlib
import json
from typing import cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from valuemodels.contract.errors import CheckpointError, first_line

_PROBE = "Straße, 12.5 °C: “it's” naïve\n\tdef f(x): return x**2 — 数 🙂"


def tokenizer_fingerprint(model: str, revision: str | None = None) -> str:
    """SHA-256 over a tokenizer's vocabulary and what it makes of a probe text.

    Raises:
        CheckpointError: the tokenizer cannot be loaded.
    """
    tokenizer = _load_tokenizer(model, revision)
    content = [sorted(tokenizer.get_vocab().items()), tokenizer.encode(_PROBE, add_special_tokens=False)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def tokenizer_size(model: str, revision: str | None = None) -> int:
    """One more than the largest token id that a tokenizer gives.

    Raises:
        CheckpointError: the tokenizer cannot be loaded.
    """
    return 1 + int(max(_load_tokenizer(model, revision).get_vocab().values()))


def _load_tokenizer(model: str, revision: str | None) -> PreTrainedTokenizerBase:
    try:
        return cast(
            PreTrainedTokenizerBase,
            AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False),
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the tokenizer of {model} cannot be loaded: {first_line(error)}") from None
