"""What of the processor goes to something else than computing the model."""

import time

import httpx
import pytest
from vllm.platforms import current_platform

from tests.e2e.conftest import Server, processes_of

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not current_platform.is_cpu(), reason="elsewhere the engine's loop spins, as vLLM's does"),
]

TOKENS = 64
ENGINES_SHARE = 0.4
"""Of a core: vLLM's loop takes all it can get, ours what its work takes, a tenth or two."""


def engine_s(server: Server) -> float:
    """Processor time that the engine's loop has taken, in s."""
    (engine,) = (each for each in processes_of(server) if "EngineCore" in " ".join(each.cmdline()))
    return sum(engine.cpu_times()[:2])


def test_the_engines_loop_leaves_the_processor_to_others_while_its_worker_computes(
    server: Server, http: httpx.Client
) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": TOKENS, "ignore_eos": True, "objective_weights": {}}
    before, started = engine_s(server), time.monotonic()
    answer = http.post("/v1/completions", json=body)
    took = time.monotonic() - started
    assert answer.status_code == 200, answer.text
    assert engine_s(server) - before < ENGINES_SHARE * took
