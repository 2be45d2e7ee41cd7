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


def shared_arguments(work: str, seed: int) -> dict[str, Any]:
    """What all trainers of trl are told here; their settings come on top.

    Args:
        work: folder of the checkpoints.
    """
    import torch

    return {
        "output_dir": work,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 5,
        "save_strategy": "steps",
        "save_steps": 20,
        "save_total_limit": 2,
        "logging_steps": 5,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": True,
        "report_to": "none",
        "log_level": "error",
    }
