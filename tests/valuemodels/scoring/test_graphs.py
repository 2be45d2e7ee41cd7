"""Calls as graphs, with a recorder in CUDA's place: what is copied, kept, and given up."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from valuemodels.scoring.graphs import Capture, Graphs


def recording(calls: list[str]) -> Capture:
    """Replays as a graph does: on the very tensors that it was recorded with, into the very output."""

    def capture(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        calls.append("captured")
        output = call()

        def replay() -> None:
            calls.append("replayed")
            output.copy_(call())

        return replay, output

    return capture


def test_a_shape_is_captured_once_and_replayed_on_new_numbers() -> None:
    calls: list[str] = []
    graphs = Graphs(recording(calls))
    first = graphs.call("sum", torch.add, torch.tensor([1, 2]), torch.tensor([3, 4]))
    second = graphs.call("sum", torch.add, torch.tensor([5, 6]), torch.tensor([7, 8]))
    assert first.tolist() == [4, 6] and second.tolist() == [12, 14], "each in memory of its own"
    assert calls == ["captured", "replayed", "replayed"]


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("other", torch.tensor([1, 2])), ("sum", torch.tensor([1, 2, 3])), ("sum", torch.tensor([1.0, 2.0]))],
)
def test_another_kind_shape_or_type_is_a_graph_of_its_own(kind: str, numbers: Tensor) -> None:
    calls: list[str] = []
    graphs = Graphs(recording(calls))
    graphs.call("sum", torch.neg, torch.tensor([1, 2]))
    assert graphs.call(kind, torch.neg, numbers).tolist() == (-numbers).tolist()
    assert calls.count("captured") == 2


def test_what_was_used_least_recently_goes_first() -> None:
    calls: list[str] = []
    graphs = Graphs(recording(calls), most=2)
    for size in (1, 2, 1, 3, 1, 2):
        graphs.call("neg", torch.neg, torch.ones(size))
    assert calls.count("captured") == 4, "1, 2, 3, and 2 again"


def test_what_cannot_be_captured_is_called_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    def failing(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        tried.append(call)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = Graphs(failing)
    with caplog.at_level(logging.ERROR, "vllm.mavis"):
        found = [graphs.call("neg", torch.neg, torch.ones(size)).tolist() for size in (1, 2)]
    assert found == [[-1.0], [-1.0, -1.0]] and len(tried) == len(caplog.records) == 1
