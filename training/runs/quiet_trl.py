"""trl, whose import silences vLLM in this process and all below it: that is undone. Imports torch when it is called."""

import os
from typing import Any

_VLLM_LEVEL = "VLLM_LOGGING_LEVEL"


def trl() -> Any:
    """The package."""
    level = os.environ.get(_VLLM_LEVEL)
    try:
        import trl as package
    finally:
        if level is None:
            os.environ.pop(_VLLM_LEVEL, None)
        else:
            os.environ[_VLLM_LEVEL] = level
    return package
