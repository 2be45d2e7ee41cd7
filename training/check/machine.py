"""What this machine can do: timed for a moment, not looked up. Imports torch."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

_SECONDS = 0.5
_ROWS, _WIDTH = 64, 1024
_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Machine:
    """
    Attributes:
        flops: floating-point operations a second, of products as decoding has them.
        memory, disk: free bytes, of the device that computes and of the folder's disk.
    """

    name: str
    flops: float
    memory: int
    disk: int


def this_machine(folder: Path) -> Machine:
    """
    Args:
        folder: where a run's files are to go; its disk counts, whether it is there yet or not.
    """
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    disk = shutil.disk_usage(there).free
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Machine(torch.cuda.get_device_name(), _flops("cuda", torch.bfloat16), free, disk)
    cores = len(os.sched_getaffinity(0))
    return Machine(f"CPU, {cores} cores", _flops("cpu", torch.float32), psutil.virtual_memory().available, disk)


def _flops(device: str, dtype: torch.dtype) -> float:
    rows = torch.randn(_ROWS, _WIDTH, device=device, dtype=dtype)
    weights = torch.randn(_WIDTH, _WIDTH, device=device, dtype=dtype)
    float((rows @ weights).sum())
    started, fastest = time.perf_counter(), float("inf")
    while (begun := time.perf_counter()) - started < _SECONDS:
        for _ in range(_AT_ONCE):
            found = rows @ weights
        float(found[0, 0])  # waits for the device
        # What else runs just now is not the machine's fault.
        fastest = min(fastest, time.perf_counter() - begun)
    return 2 * _ROWS * _WIDTH * _WIDTH * _AT_ONCE / fastest
