"""Where the base model of a recipe lies on this machine.

Runs in any training process. Must not import vllm; torch only through the conversion of the embedded base.
"""

from valuemodels.sources.embedded import prepare_embedded_base
from valuemodels.sources.hub import resolve_folder

EMBEDDED = "embedded"


def base_folder(base: str, revision: str | None = None) -> str:
    """A folder with the base model's weights and tokenizer.

    Args:
        base: "embedded", or a folder or hub id.
    """
    return str(prepare_embedded_base() if base == EMBEDDED else resolve_folder(base, revision))
