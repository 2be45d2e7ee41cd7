"""Several engines behind one HTTP process (`--data-parallel-size`): whoever holds a generation is found."""

import re
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.e2e.conftest import Server, serving
from tests.e2e.test_live_control import MINE, UP, running, turned_down

pytestmark = [pytest.mark.engine, pytest.mark.processes, pytest.mark.slow]

TOKENS = 96


@pytest.fixture(scope="module")
def two_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("engines"), "--data-parallel-size", "2") as server:
        yield server


def test_changes_and_values_reach_the_engine_that_holds_each_choice(two_engines: Server) -> None:
    names = [f"spread-{number}" for number in range(4)]
    with ExitStack() as stack, httpx.Client(base_url=two_engines.url, timeout=60) as http:
        asked = {"n": 2, "max_tokens": TOKENS, "objective_weights": UP, "return_values": True}
        scorings = ("fast", "exact", "hybrid", "fast")
        writing, at = [], []
        for name, scoring in zip(names, scorings, strict=True):
            writing.append(stack.enter_context(running(two_engines, name, scoring=scoring, **asked)))
            at.append(turned_down(http, name))
        told = [http.get(f"/v1/generations/chatcmpl-{name}", headers=MINE) for name in names]
        stack.close()
        for each, effective in zip(writing, at, strict=True):
            for choice in range(2):
                (block,) = each.blocks(choice)
                assert each.steering(choice)[-1][1] == -1.0 and len(block["tokens"]) == TOKENS
                assert all(token["values"] for token in block["tokens"])
            assert effective < TOKENS
        assert [answer.status_code for answer in told] == [200] * len(names)
        metrics = http.get("/metrics").text
    served = dict(
        re.findall(r'^vllm:request_success_total\{engine="(\d)".*?reason="length".*?\} ([\d.]+)$', metrics, re.M)
    )
    assert set(served) == {"0", "1"} and all(float(count) > 0 for count in served.values())
