"""The one class path that vLLM is told: of whichever runner it chooses, the adapter for that one.

vLLM chooses its runner once it knows its whole configuration, and asks for a class path before. Both runners load the
class, check that it is one of theirs, and make an instance, each with arguments of its own.
"""

from typing import Any

from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import LogitsProcessor as V1Interface
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2Interface

from valuemodels.adapters import vllm_v1, vllm_v2
from valuemodels.adapters.processor import ValueProcessor


class ValueLogitsProcessor:
    """Makes one of the two."""

    validate_params = ValueProcessor.validate_params

    def __new__(cls, vllm_config: VllmConfig, *of_runner: Any) -> Any:
        """Args: `of_runner`: V1 gives its device and whether it pins memory, V2 its requests' state."""
        is_v1 = len(of_runner) == 2
        return (vllm_v1 if is_v1 else vllm_v2).ValueLogitsProcessor(vllm_config, *of_runner)


# Both are abstract base classes, whose methods have the same names and other arguments: no class inherits from both.
V1Interface.register(ValueLogitsProcessor)
V2Interface.register(ValueLogitsProcessor)
