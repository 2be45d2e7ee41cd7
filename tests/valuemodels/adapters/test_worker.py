"""The worker's extra methods, around a guide and no engine."""

from types import SimpleNamespace
from typing import Any

import pytest

from valuemodels.adapters.worker import ValueWorkerExtension
from valuemodels.guide.traces import TraceStore


class Traces(TraceStore):
    """A store with one trace that cannot be read."""

    def read(self, wanted: Any) -> dict[str, dict[str, Any]]:
        if "broken" in wanted:
            raise RuntimeError("a tensor went wrong")
        return {generation_id: {"0:0": {"from": 0}} for generation_id in wanted}


def test_a_trace_that_cannot_be_read_spoils_neither_its_neighbours_nor_the_drops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Would catch one bad read that is everybody's error, and leaves what should be forgotten."""
    offers = SimpleNamespace(read=Traces(4).read)
    traces, failed = ValueWorkerExtension._mavis_read(offers, {"a": {}, "broken": {}, "b": {}})  # type: ignore[arg-type]
    assert traces.keys() == {"a", "b"} and failed == ["broken"]
    assert "could not be read" in caplog.text
