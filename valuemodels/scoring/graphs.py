"""Functions of tensors as CUDA graphs: queued by one launch, whatever they are made of. Imports torch alone.

A decoder as small as a value trunk takes less time on a GPU than queueing its hundreds of operations does on the host.
A graph is fixed in shapes and addresses. So inputs are copied to where it reads them, and what it gives is copied from
where it writes.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("vllm.mavis")

MOST_GRAPHS = 64
_WARM_UPS = 2

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Records a call. Returns what replays it, and the tensor that every replay writes."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    inputs: tuple[Tensor, ...]
    replay: Callable[[], None]
    output: Tensor


class Graphs:
    """Calls as graphs, one of each kind of call and shape of inputs, of which the latest are kept."""

    def __init__(self, capture: Capture | None, most: int = MOST_GRAPHS) -> None:
        """Args: `capture`: None calls functions as they are."""
        self._capture = capture
        self._most = most
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()

    def call(self, kind: Hashable, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`function(*inputs)`, in memory of its own.

        Args:
            kind: names what the function does beside its inputs: it is not looked at once it is recorded.
            function: must give the same when it is called again, ask for no tensor's value, and make all of its
                tensors on its inputs' device.
        """
        if self._capture is None:
            return function(*inputs)
        key = (kind, *((each.shape, each.dtype) for each in inputs))
        recorded = self._recorded.get(key)
        if recorded is None:
            recorded = self._record(self._capture, function, inputs)
            if recorded is None:
                return function(*inputs)
            self._recorded[key] = recorded
        self._recorded.move_to_end(key)
        while len(self._recorded) > self._most:
            self._recorded.popitem(last=False)
        for static, given in zip(recorded.inputs, inputs, strict=True):
            static.copy_(given)
        recorded.replay()
        return recorded.output.clone()

    def _record(
        self, capture: Capture, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
    ) -> _Recorded | None:
        """None where it cannot be captured: then nothing is, from now on."""
        static = tuple(each.clone() for each in inputs)
        try:
            return _Recorded(static, *capture(lambda: function(*static)))
        except RuntimeError:
            logger.exception("no CUDA graph could be made of a value model's step; it runs without, and slower")
            self._capture = None
            return None


def graphs_on(device: torch.device) -> Graphs:
    """CUDA graphs on a GPU; elsewhere plain calls."""
    return Graphs(_cuda_capture(device) if device.type == "cuda" else None)


def _cuda_capture(device: torch.device) -> Capture:
    cuda: Any = torch.cuda  # which torch does not type
    pool = cuda.graph_pool_handle()  # shared: one graph runs at a time

    def capture(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        # Libraries set themselves up in their first calls, which a capture would not survive.
        aside = cuda.Stream(device)
        aside.wait_stream(cuda.current_stream(device))
        with cuda.stream(aside):
            for _ in range(_WARM_UPS):
                call()
        cuda.current_stream(device).wait_stream(aside)
        graph = cuda.CUDAGraph()
        # The runner's other threads may copy meanwhile.
        with cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = call()
        return graph.replay, output

    return capture
