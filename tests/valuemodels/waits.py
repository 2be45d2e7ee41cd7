"""Counts how often code asks for a tensor's value: a GPU has to have done all that is queued before there is one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import pytest
import torch

from valuemodels.transfers import Arrival

WAITING = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero")


@contextmanager
def counted_waits() -> Iterator[list[str]]:
    """The names of what asks for a value meanwhile, in this thread: others have other steps.

    Copies to the host are under way and not here yet, as they would be on a GPU. A tensor made on a device of numbers
    from the host counts, too: that copy waits, unless `to_device` makes it.
    """
    seen: list[str] = []
    here = get_ident()

    def counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if get_ident() == here and (name != "tensor" or "device" in kwargs):
                seen.append(name)
            return method(*args, **kwargs)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for name in WAITING:
            patch.setattr(torch.Tensor, name, counting(name, getattr(torch.Tensor, name)))
        patch.setattr(torch, "tensor", counting("tensor", torch.tensor))
        patch.setattr(Arrival, "is_here", False)
        yield seen
