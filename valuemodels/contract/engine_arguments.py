"""How a vLLM engine is told about us: plain arguments, the same for the server and for training.

Light: neither torch nor vLLM is imported here.
"""

from collections.abc import Mapping
from typing import Any

from valuemodels.contract.guidance import EXTRA_ARGS_KEY
from valuemodels.contract.guide_config import GuideConfig

LOGITS_PROCESSOR = "valuemodels.adapters.either_runner:ValueLogitsProcessor"
WORKER_EXTENSION = "valuemodels.adapters.worker.ValueWorkerExtension"


def engine_arguments(config: GuideConfig, additional_config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Engine arguments (for `vllm.LLM` or `AsyncEngineArgs`) that put a value guide into every worker.

    Args:
        config: what the workers build their guide from.
        additional_config: the operator's own `additional_config`, kept beside ours.
    """
    return {
        "logits_processors": [LOGITS_PROCESSOR],
        "worker_extension_cls": WORKER_EXTENSION,
        "additional_config": {**(additional_config or {}), EXTRA_ARGS_KEY: config.to_wire()},
    }
