"""Calls to the workers of one engine and of several, with ranks that answer alike or not at all."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from server.errors import EngineLostError
from server.workers.mailbox import Mailbox
from server.workers.rpc import call_workers
from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import ChoiceName
from valuemodels.contract.trace_wire import TokenRange


class Engines:
    """vLLM's client of several engines: `collective_rpc` gives the first one's answers alone."""

    errored = False

    def __init__(self, answers: Sequence[Sequence[Any]]) -> None:
        self._answers = answers
        self.asked: list[Any] = []
        self.engine_core = SimpleNamespace(call_utility_all_async=self._everywhere)

    async def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> Any:
        return self._answers[0]

    async def _everywhere(self, utility: str, method: str, within_s: Any, args: Any, kwargs: Any) -> Any:
        self.asked.append((utility, method, args))
        return self._answers


def exchange(traces: Any, next_tokens: Any = None, failed: Any = (), guided: int = 1) -> dict[str, Any]:
    stats = {"guided_rows": guided, "cache_bytes": 10}
    return {"traces": traces, "failed": list(failed), "next_tokens": next_tokens or {}, "stats": stats}


async def test_every_engine_has_one_answer_whatever_its_ranks() -> None:
    engines = Engines([[{"at": 1}, {"at": 1}], [None, {"at": 2}]])
    assert await call_workers(engines, "mavis_attach", 7) == [{"at": 1}, {"at": 2}]
    assert engines.asked == [("collective_rpc", "mavis_attach", (7,))]


async def test_an_engine_that_does_not_answer_is_lost() -> None:
    with pytest.raises(EngineLostError) as lost:
        await call_workers(Engines([[{"at": 1}], [None]]), "mavis_attach")
    assert lost.value.reason.startswith("no worker answered")


async def test_an_answer_is_put_together_from_all_engines() -> None:
    """The choices of one generation may run on several; what one engine does not know is another's."""
    first = exchange({"g": {"0:0": {"kl": [1.0]}}}, {"g": {"0:0": 3}}, ["h"], guided=2)
    second = exchange({"g": {"0:1": {"kl": [2.0]}}, "i": {"0:0": {"kl": []}}}, {"g": {"0:1": 5}}, guided=3)
    seen: list[Any] = []
    mailbox = Mailbox(Engines([[first], [second]]), seen.append)
    mailbox.read("g", {ChoiceName(0, 0): TokenRange(0, [1]), ChoiceName(0, 1): TokenRange(0, [1])})
    found = await mailbox.change(Change("g", {"positivity": 1.0}))
    assert found.traces["g"] == {ChoiceName(0, 0): {"kl": [1.0]}, ChoiceName(0, 1): {"kl": [2.0]}}
    assert found.next_tokens == {"g": {ChoiceName(0, 0): 3, ChoiceName(0, 1): 5}}
    assert found.failed == {"h"} and "i" in found.traces
    assert seen == [{"guided_rows": 5, "cache_bytes": 20}]
