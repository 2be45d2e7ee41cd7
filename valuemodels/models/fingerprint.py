"""Whether two tokenizers are the same: one hash over what they hold and what they do. Imports transformers."""

import hashlib
import json

from transformers import AutoTokenizer

from valuemodels.contract.errors import CheckpointError, first_line

_PROBE = "Straße, 12.5 °C: “it's” naïve\n\tdef f(x): return x**2 — 数 🙂"


def tokenizer_fingerprint(model: str, revision: str | None = None) -> str:
    """SHA-256 over a tokenizer's vocabulary and what it makes of a probe text.

    Raises:
        CheckpointError: the tokenizer cannot be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the tokenizer of {model} cannot be loaded: {first_line(error)}") from None
    content = [sorted(tokenizer.get_vocab().items()), tokenizer.encode(_PROBE, add_special_tokens=False)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
