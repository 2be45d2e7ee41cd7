"""Numbers on their way to a device and back, which nobody waits for. Imports torch alone.

What a step does is queued on a GPU and runs later. Who asks for a tensor's value, or copies from ordinary memory, waits
until all that is queued has been done, and meanwhile nothing new is. Elsewhere all of this is a plain copy.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def to_device(numbers: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of numbers from the host, or of sequences of them, ordered behind what the device is doing."""
    made = torch.tensor(numbers, dtype=dtype)
    if device.type != "cuda":
        return made.to(device)
    return made.pin_memory().to(device, non_blocking=True)


@contextmanager
def finished_on(device: torch.device) -> Iterator[None]:
    """Everything that this thread has the device do meanwhile has been done at the end.

    A thread of its own has neither the device of the others nor their order: what it has made could be read too early.
    """
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield
        torch.cuda.current_stream(device).synchronize()


class Arrival:
    """A tensor that is on its way to the host; nobody may write to it any more."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: Any = None  # torch does not type its events
        if tensor.device.type != "cuda":
            self._host = tensor
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._event = torch.Event("cuda")
        self._event.record()

    @property
    def is_here(self) -> bool:
        """Whether `read` need not wait."""
        if self._event is None:
            return not self._host.is_meta
        return bool(self._event.query())

    def read(self) -> Tensor:
        """It, on the host; waits for it where it is not here yet."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
